"""What a tracking server of MLflow says over REST: versions of registered models, and the artifacts that it serves.

Nothing that it says is believed before it was looked at: an answer of another form, size or model is none.
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from spinal.checkpoints.reading import Unreadable, parse_json
from spinal.checkpoints.sources.base import FILE_NAME
from spinal.errors import ModelNotFound
from spinal.errors.faults import shown
from spinal.errors.sources import ModelAccessRefused, SourceUnavailable
from spinal.net.http import Http, retry_after_s

API = "/api/2.0"
ARTIFACTS = f"{API}/mlflow-artifacts/artifacts"
MOST_ANSWER = 4 * 2**20
"""Bytes of one answer: a list of ten thousand files has a tenth of that."""
MOST_LISTED = 10_000
MOST_VALUES = 100_000
MOST_TAG = 200
MOST_SIZE = 2**53
"""Larger numbers are not the same for every reader of JSON."""
NUMBER = re.compile(r"[1-9][0-9]{0,9}")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
PLAIN = {"Accept-Encoding": "identity"}
"""Sizes and ranges are of the file itself."""
REDIRECTS = range(300, 400)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    source: str
    """The URI that it was registered with."""
    run: str
    """Id of the run that made it; empty where none is known."""


@dataclass(frozen=True)
class Folder:
    """What lies in one folder of the artifacts."""

    files: Mapping[str, int]
    """Name -> bytes."""
    folders: tuple[str, ...]


class Tracking:
    """One server. Its methods raise SourceUnavailable, ModelAccessRefused and SourceRefused; ``deadline`` is a time of
    ``time.monotonic``."""

    def __init__(self, http: Http, url: str) -> None:
        self._http = http
        self._url = url

    @property
    def place(self) -> str:
        """Host, port and path of the server."""
        return self._url.partition("://")[2]

    def aliased(self, name: str, alias: str, deadline: float) -> str:
        """The version that an alias names now. Raises ModelNotFound."""
        called = f"mlflow:{name}@{alias}"
        query = {"name": name, "alias": alias}
        answer = self._ask("/mlflow/registered-models/alias", query, called, deadline, unknown=(400, 404))
        return self._version(answer, name, called).number

    def version(self, name: str, number: str, deadline: float) -> Version:
        """Raises ModelNotFound where there is none, or none that can be read yet."""
        called = f"mlflow:{name}/{number}"
        answer = self._ask("/mlflow/model-versions/get", {"name": name, "version": number}, called, deadline)
        found = self._version(answer, name, called)
        if found.number != number:
            raise _unlike(called, "it answered for another version")
        return found

    def download_uri(self, version: Version, deadline: float) -> str:
        """Where the files of a version lie that was registered by the id of a logged model."""
        called = f"mlflow:{version.name}/{version.number}"
        query = {"name": version.name, "version": version.number}
        answer = self._ask("/mlflow/model-versions/get-download-uri", query, called, deadline)
        return _text(answer, "artifact_uri", called)

    def run_root(self, run: str, called: str, deadline: float) -> str:
        """URI of the artifacts of a run."""
        answer = self._ask("/mlflow/runs/get", {"run_id": run}, called, deadline)
        info = _member(_member(answer, "run", called), "info", called)
        if info.get("run_id") != run:
            raise _unlike(called, "it answered for another run")
        return _text(info, "artifact_uri", called)

    def folder(self, path: str, called: str, deadline: float) -> Folder:
        """What lies in a folder of the served artifacts; nothing where there is no such folder."""
        answer = self._asked(f"{ARTIFACTS}?{urlencode({'path': path})}", called, deadline)
        entries = answer.get("files", [])
        if not isinstance(entries, list):
            raise _unlike(called, "its list of artifacts is no list")
        if len(entries) > MOST_LISTED:
            raise _unlike(called, f"it lists more than {MOST_LISTED} artifacts in one folder")
        files: dict[str, int] = {}
        folders: list[str] = []
        for entry in entries:
            name, size = _entry(entry, called)
            if name in files or name in folders:
                raise _unlike(called, f"it lists {shown(name)!r} twice")
            if size is None:
                folders.append(name)
            else:
                files[name] = size
        usable = {name: size for name, size in files.items() if FILE_NAME.fullmatch(name)}
        return Folder(usable, tuple(sorted(name for name in folders if FILE_NAME.fullmatch(name))))

    def content(self, path: str, called: str, *, most_bytes: int, deadline: float) -> bytes:
        """A small file of the served artifacts."""
        answer = self._http.read(self._at(path), most_bytes=most_bytes, headers=PLAIN, deadline=deadline)
        if answer.status != 200:
            raise self.refusal(answer.status, answer.headers, called)
        return answer.body

    def content_of(self, version: Version, file: str, *, most_bytes: int, deadline: float) -> bytes | None:
        """A small file of a version whose files the server does not serve by path: it reads the bucket itself, if it
        may. None where there is no such file, or the server cannot read it."""
        query = urlencode({"name": version.name, "version": version.number, "path": file})
        url = f"{self._url}/model-versions/get-artifact?{query}"
        answer = self._http.read(url, most_bytes=most_bytes, headers=PLAIN, deadline=deadline)
        if answer.status in (429, 502, 503, 504):
            raise self.refusal(answer.status, answer.headers, f"mlflow:{version.name}/{version.number}")
        return answer.body if answer.status == 200 else None

    def tag(self, path: str, called: str, deadline: float) -> str | None:
        """The etag of a served file, None where the server makes none, as where it passes on files of a bucket.

        Asked for by GET: to HEAD the server gives another one."""
        first = PLAIN | {"Range": "bytes=0-0"}
        with self._http.stream(self._at(path), headers=first, deadline=deadline) as response:
            # A file without any byte has no first one.
            if response.status_code not in (200, 206, 416):
                raise self.refusal(response.status_code, response.headers, called)
            tag = response.headers.get("etag")
        return tag if tag and len(tag) <= MOST_TAG and tag.isprintable() else None

    @contextmanager
    def opened(self, path: str, span: str | None) -> Iterator[httpx.Response]:
        """The answer to a request for a served file, or for ``span`` of it, whatever its status."""
        headers = PLAIN if span is None else PLAIN | {"Range": span}
        with self._http.stream(self._at(path), headers=headers) as response:
            yield response

    def refusal(
        self, status: int, headers: httpx.Headers, called: str
    ) -> ModelAccessRefused | SourceUnavailable | ModelNotFound:
        """The error of a status that says nothing on the model itself."""
        if status in (401, 403):
            return ModelAccessRefused(
                f"the registry gives no access to {shown(called)} with the credentials at hand",
                hint="check token, or username and password, of the source mlflow, and the rights of that user",
            )
        if status in REDIRECTS:
            return SourceUnavailable(
                f"{shown(called)}: the registry answered with a redirect, which is not followed",
                hint="give the address that it redirects to as url of the source mlflow",
            )
        return SourceUnavailable(
            f"{shown(called)}: the registry answered with status {status}",
            hint="is url of the source mlflow the address of a tracking server that serves its artifacts?",
            retry_after_s=retry_after_s(headers),
        )

    def _at(self, path: str) -> str:
        return f"{self._url}{ARTIFACTS}/{quote(path)}"

    def _version(self, answer: dict[str, Any], name: str, called: str) -> Version:
        found = _member(answer, "model_version", called)
        number, run = found.get("version"), found.get("run_id", "")
        if found.get("name") != name:
            raise _unlike(called, "it answered for another model")
        if not isinstance(number, str) or not NUMBER.fullmatch(number):
            raise _unlike(called, "it names no version")
        if not isinstance(run, str) or (run and not ID.fullmatch(run)):
            raise _unlike(called, "it names no run")
        if found.get("status") != "READY":
            raise ModelNotFound(
                f"{shown(called)} is registered and not ready", hint="submit it when its registration is complete"
            )
        return Version(name, number, _text(found, "source", called), run)

    def _ask(
        self, route: str, query: Mapping[str, str], called: str, deadline: float, unknown: tuple[int, ...] = (404,)
    ) -> dict[str, Any]:
        return self._asked(f"{API}{route}?{urlencode(query)}", called, deadline, unknown)

    def _asked(self, target: str, called: str, deadline: float, unknown: tuple[int, ...] = ()) -> dict[str, Any]:
        headers = PLAIN | {"Accept": "application/json"}
        answer = self._http.read(self._url + target, most_bytes=MOST_ANSWER, headers=headers, deadline=deadline)
        if answer.status != 200 and answer.status not in unknown:
            raise self.refusal(answer.status, answer.headers, called)
        try:
            found = parse_json(answer.body, "its answer", most_values=MOST_VALUES)
        except Unreadable as error:
            if answer.status != 200:
                raise self.refusal(answer.status, answer.headers, called) from error
            raise _unlike(called, str(error)) from error
        if answer.status != 200:
            # A page of a server that is none of MLflow's has no such member.
            if isinstance(found, dict) and isinstance(found.get("error_code"), str):
                raise ModelNotFound(
                    f"the registry knows no {shown(called)}", hint="check name, and version or alias, in the registry"
                )
            raise self.refusal(answer.status, answer.headers, called)
        if not isinstance(found, dict):
            raise _unlike(called, "its answer is no JSON object")
        return found


def until(seconds: float) -> float:
    """The deadline so many seconds from now."""
    return time.monotonic() + seconds


def _entry(entry: object, called: str) -> tuple[str, int | None]:
    """Name and bytes of a listed artifact; None for the bytes of a folder."""
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
        raise _unlike(called, "it lists an artifact without a name")
    if entry.get("is_dir") is True:
        return entry["path"], None
    size = entry.get("file_size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MOST_SIZE:
        raise _unlike(called, f"it lists {shown(entry['path'])!r} without a size")
    return entry["path"], size


def _member(answer: Mapping[str, Any], name: str, called: str) -> dict[str, Any]:
    found = answer.get(name)
    if not isinstance(found, dict):
        raise _unlike(called, f"its answer has no {name}")
    return found


def _text(answer: Mapping[str, Any], name: str, called: str) -> str:
    found = answer.get(name)
    if not isinstance(found, str) or not found:
        raise _unlike(called, f"its answer has no {name}")
    return found


def _unlike(called: str, why: str) -> SourceUnavailable:
    return SourceUnavailable(
        f"{shown(called)}: the registry did not answer as MLflow does: {why}",
        hint="is url of the source mlflow the address of a tracking server?",
    )
