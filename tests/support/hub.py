"""A hub of models on loopback, with its CDN at a port of its own.

It says what huggingface.co says, as far as it concerns reading models; ``tests/unit/sources/test_hub_double.py`` holds
it to the hub's own client. It has no xet storage, so files come over plain HTTP.

In this process::

    with Hub() as hub:
        hub.add("acme/tuned", {"config.json": b"{}"})
        hub.inject(Fault("cdn GET *", times=1, cut_after=100))

As a process of its own, which can be frozen and killed (:mod:`tests.support.hub_process` starts and drives it)::

    python -m tests.support.hub FOLDER --port-file FILE

Each ``FOLDER/org/name`` is a repository.
"""

import argparse
import hmac
import json
import re
import threading
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_contents import Repository
from tests.support.hub_routes import EXPIRES, NEEDS_ACCESS, ROUTES, Act, signature
from tests.support.hub_serving import Answer, Fault, Seen, Server, as_json, refusal, token_of

ACCESS = "Access to model {} is restricted. You must have access to it and be authenticated to access it."
BAD_TOKEN = "Invalid credentials in Authorization header"


class Hub:
    """``page`` entries go into one page of a list."""

    def __init__(self, *, page: int = 1000, port: int = 0, cdn_port: int = 0) -> None:
        self.page = page
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        """Former id -> present id."""
        self.tokens: dict[str, tuple[str, ...]] = {}
        """Token -> patterns of repositories that it opens."""
        self.seen: list[Seen] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._servers = {"hub": Server(self, "hub", port), "cdn": Server(self, "cdn", cdn_port)}
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.port}" for server in self._servers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.away()
        for server in self._servers.values():
            server.leave()

    def add(
        self, name: str, files: Mapping[str, bytes | Path] | Path, *, gated: bool = False, private: bool = False
    ) -> Repository:
        """A repository with one commit on ``main``."""
        made = self.repositories[name] = Repository(name, gated=gated, private=private)
        made.commit(files)
        return made

    def inject(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """No fault is left, and what stalls goes on."""
        with self._lock:
            faults, self._faults = self._faults, []
        for fault in faults:
            fault.released.set()

    def away(self) -> None:
        """Connections end, new ones are refused."""
        self.heal()
        for server in self._servers.values():
            server.stop()

    def back(self) -> None:
        """At the same ports."""
        for server in self._servers.values():
            server.start()

    def requests(self, pattern: str = "*") -> list[Seen]:
        with self._lock:
            return [each for each in self.seen if fnmatchcase(each.what, pattern)]

    def sent(self, pattern: str = "*") -> int:
        """Bytes of bodies."""
        return sum(each.sent for each in self.requests(pattern))

    def forget(self) -> None:
        with self._lock:
            self.seen.clear()

    def note(self, seen: Seen) -> Fault | None:
        """Write a request down; returns what goes wrong with it."""
        with self._lock:
            self.seen.append(seen)
            for fault in self._faults:
                if fnmatchcase(seen.what, fault.on) and (fault.times is None or fault.hits < fault.times):
                    fault.hits += 1
                    return fault
        return None

    def answer(self, place: str, method: str, target: str, headers: Mapping[str, str]) -> Answer:
        address = urlsplit(target)
        query = {name: ",".join(values) for name, values in parse_qs(address.query).items()}
        if place == "cdn":
            return self._from_cdn(address.path, query, headers)
        if method not in ("GET", "HEAD"):
            return refusal(405, "", "Method not allowed")
        token = token_of(headers)
        if token is not None and token not in self.tokens:
            return refusal(401, "", BAD_TOKEN)
        for pattern, act in ROUTES:
            if found := pattern.fullmatch(address.path):
                return self._of_repository(act, found, target, query, headers)
        return refusal(404, "", "Not Found")

    def control(self, told: dict[str, Any]) -> Answer:
        """What another process wants of the hub: one member that names it, with what it needs."""
        (what, given), *_ = told.items()
        if what == "inject":
            self.inject(Fault(**{**given, "body": given.get("body", "").encode()}))
        elif what == "heal":
            self.heal()
        elif what == "add":
            self.add(given.pop("name"), Path(given.pop("folder")), **given)
        elif what == "commit":
            return as_json(self.repositories[given["name"]].commit(Path(given["folder"])))
        elif what == "token":
            self.tokens[given["token"]] = tuple(given["opens"])
        elif what == "seen":
            return as_json([vars(each) for each in self.requests(given)])
        else:
            return refusal(400, "", "no such control")
        return as_json(None)

    def opens(self, token: str | None, name: str) -> bool:
        return token is not None and any(fnmatchcase(name, pattern) for pattern in self.tokens[token])

    def _of_repository(
        self, act: Act, found: re.Match[str], target: str, query: dict[str, str], headers: Mapping[str, str]
    ) -> Answer:
        name, token = found["id"], token_of(headers)
        if name in self.renamed:
            # Addresses without a host, unlike those of the CDN.
            return Answer(307, {"Location": target.replace(name, self.renamed[name], 1)})
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not self.opens(token, name)):
            # Nobody learns which of both it is.
            return refusal(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if repository.disabled:
            return refusal(403, "", "Access to this resource is disabled.")
        revision = unquote(found["revision"] or "main")
        commit = repository.at(revision)
        if commit is None:
            return refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if act in NEEDS_ACCESS and repository.gated and not self.opens(token, name):
            return refusal(401 if token is None else 403, "GatedRepo", ACCESS.format(name))
        return act(self, repository, commit, unquote(found.groupdict().get("path") or ""), query, headers)

    def _from_cdn(self, path: str, query: dict[str, str], headers: Mapping[str, str]) -> Answer:
        if "authorization" in headers:
            return refusal(400, "", "Only one auth mechanism allowed")
        signed = query.get("Expires") == EXPIRES and hmac.compare_digest(query.get("Signature", ""), signature(path))
        if not signed:
            return refusal(403, "", "Access denied")
        name, _, sha256 = path[1:].rpartition("/")
        repository = self.repositories.get(name, Repository(name))
        for commit in list(repository.commits.values()):
            for blob in commit.files.values():
                if blob.lfs and blob.sha256 == sha256:
                    return Answer(200, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}, blob)
        return refusal(404, "", "Not Found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port-file", type=Path, required=True, help="gets both ports as soon as it listens")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--cdn-port", type=int, default=0)
    given = parser.parse_args()
    with Hub(port=given.port, cdn_port=given.cdn_port) as hub:
        for folder in sorted(path for path in given.folder.glob("*/*") if path.is_dir()):
            hub.add(folder.relative_to(given.folder).as_posix(), folder)
        ports = [urlsplit(url).port for url in (hub.url, hub.cdn_url)]
        half = given.port_file.with_suffix(".half")
        half.write_text(json.dumps(ports))
        half.rename(given.port_file)
        threading.Event().wait()


if __name__ == "__main__":
    main()
