"""What a hub of models answers, route by route."""

import gzip
import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from tests.support.hub_contents import Blob, Commit, Repository
from tests.support.hub_serving import Answer, as_json, refusal

if TYPE_CHECKING:
    from tests.support.hub import Hub

KEY = b"key of signed addresses"
EXPIRES = "4102444800"

Act = Callable[["Hub", Repository, Commit, str, dict[str, str], Mapping[str, str]], Answer]


def _info(
    hub: "Hub", repository: Repository, commit: Commit, path: str, query: dict[str, str], headers: Mapping[str, str]
) -> Answer:
    told = {
        "_id": hashlib.sha256(repository.id.encode()).hexdigest()[:24],
        "id": repository.id,
        "modelId": repository.id,
        "author": repository.id.partition("/")[0],
        "sha": commit.sha,
        "lastModified": "2024-01-01T00:00:00.000Z",
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": ["safetensors"],
        "siblings": [{"rfilename": each} for each in sorted(commit.files)],
    }
    if "expand" in query:
        told = {name: told[name] for name in ("_id", "id", *query["expand"].split(","))}
    return as_json(told)


def _tree(
    hub: "Hub", repository: Repository, commit: Commit, path: str, query: dict[str, str], headers: Mapping[str, str]
) -> Answer:
    entries = commit.folder(path, recursive=query.get("recursive", "").lower() in ("true", "1"))
    if path and not entries:
        return refusal(404, "EntryNotFound", f"{path} does not exist on this revision")
    start = int(query.get("cursor", "0"))
    end = start + min(int(query.get("limit", str(hub.page))), hub.page)
    found = as_json(entries[start:end])
    if end < len(entries):
        where = f"{hub.url}/api/models/{repository.id}/tree/{commit.sha}"
        following = urlencode({**query, "limit": end - start, "cursor": end})
        found.headers["Link"] = f'<{where}?{following}>; rel="next"'
    return found


def _resolve(
    hub: "Hub", repository: Repository, commit: Commit, path: str, query: dict[str, str], headers: Mapping[str, str]
) -> Answer:
    blob = commit.files.get(path)
    if blob is None:
        missing = refusal(404, "EntryNotFound", "Entry not found")
        missing.headers["X-Repo-Commit"] = commit.sha
        return missing
    if blob.lfs:
        at = f"/{repository.id}/{blob.sha256}"
        asked = {"Expires": EXPIRES, "Key-Pair-Id": "K", "Signature": signature(at)}
        return Answer(302, {**_linked(commit, blob), "Location": f"{hub.cdn_url}{at}?{urlencode(asked)}"})
    at = f"/api/resolve-cache/models/{repository.id}/{commit.sha}/{quote(path)}"
    return Answer(307, {**_linked(commit, blob), "Location": f"{at}?{urlencode({'etag': blob.etag})}"})


def _cached(
    hub: "Hub", repository: Repository, commit: Commit, path: str, query: dict[str, str], headers: Mapping[str, str]
) -> Answer:
    blob = commit.files.get(path)
    if blob is None:
        return refusal(404, "EntryNotFound", "Entry not found")
    told = {"X-Repo-Commit": commit.sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if "gzip" in headers.get("accept-encoding", "") and "range" not in headers:
        packed = gzip.compress(blob.read())
        return Answer(200, {**told, "Content-Encoding": "gzip"}, lambda: iter([packed]))
    return Answer(200, told, blob)


def _linked(commit: Commit, blob: Blob) -> dict[str, str]:
    return {
        "X-Repo-Commit": commit.sha,
        "X-Linked-Size": str(blob.size),
        "X-Linked-Etag": f'"{blob.etag}"',
        "Accept-Ranges": "bytes",
    }


NAME = r"(?P<id>[^/]+(?:/[^/]+)??)"
ROUTES: list[tuple[re.Pattern[str], Act]] = [
    (re.compile(rf"/api/models/{NAME}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?"), _tree),
    (re.compile(rf"/api/resolve-cache/models/{NAME}/(?P<revision>[0-9a-f]{{40}})/(?P<path>.+)"), _cached),
    (re.compile(rf"/api/models/{NAME}(?:/revision/(?P<revision>[^/]+))?"), _info),
    (re.compile(rf"/{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"), _resolve),
]


NEEDS_ACCESS = (_resolve, _cached)
"""What a gated repository keeps from those without access."""


def signature(path: str) -> str:
    return hmac.new(KEY, f"{path}?{EXPIRES}".encode(), "sha256").hexdigest()
