"""A registry on loopback that answers as MLflow does, or as a test says: for answers that no honest server gives."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
Send = Callable[[BaseHTTPRequestHandler], None]


def says(body: bytes | object, status: int = 200, **headers: str) -> Send:
    """An answer: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(raw))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(raw)

    return send


def unknown(code: str = "RESOURCE_DOES_NOT_EXIST", status: int = 404) -> Send:
    return says({"error_code": code, "message": "\x1b[31mnot here"}, status)


@dataclass
class Registry:
    """What it holds; a test changes it as it likes."""

    host: str = ""
    versions: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    """Run, or name/version -> URI of its artifacts."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path -> content of the artifacts."""
    instead: dict[str, Send] = field(default_factory=dict)
    """Path of a URL -> what is answered in place of everything else."""
    passes_on: bool = False
    """Whether the files lie in a bucket: no etags, no ranges."""
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0
    """Bytes of artifacts."""
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Run -> its metrics."""
    written: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Route and members of every request that changes something."""
    page: int = 1000
    """Entries of one page of a list."""

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def register(self, name: str, number: str, source: str, *, run: str = "run1", status: str = "READY") -> None:
        self.versions[name, number] = {
            "name": name, "version": number, "source": source, "run_id": run, "status": status
        }  # fmt: skip

    def tags(self, name: str, number: str) -> dict[str, str]:
        """Those of a version, in the order in which they were set."""
        return {each["key"]: each["value"] for each in self.versions[name, number].get("tags", [])}

    def change(self, handler: BaseHTTPRequestHandler) -> Send:
        """What POST and DELETE do."""
        told: dict[str, Any] = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        path = urlsplit(handler.path).path
        if path in self.instead:
            return self.instead[path]
        route = path.removeprefix(f"{API}/")
        self.written.append((route, told))
        if route == "runs/log-batch":
            self.metrics[told["run_id"]] |= {each["key"]: each["value"] for each in told["metrics"]}
            return says({})
        version = self.versions.get((told["name"], told["version"]))
        if version is None:
            return unknown()
        others = [each for each in version.get("tags", []) if each["key"] != told["key"]]
        new = [{"key": told["key"], "value": told["value"]}] if route == "model-versions/set-tag" else []
        version["tags"] = others + new
        return says({})

    def _pages(self, member: str, entries: list[dict[str, Any]], query: dict[str, str]) -> Send:
        start = int(query.get("page_token", "0"))
        found: dict[str, Any] = {member: entries[start : start + self.page]}
        if start + self.page < len(entries):
            found["next_page_token"] = str(start + self.page)
        return says(found)

    def answer(self, handler: BaseHTTPRequestHandler) -> Send:
        parts = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append(unquote(handler.path))
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        if parts.path in self.instead:
            return self.instead[parts.path]
        known = (query.get("name", ""), query.get("version", ""))
        if parts.path == f"{API}/registered-models/alias":
            number = self.aliases.get((query["name"], query["alias"]))
            if number is None:
                return unknown("INVALID_PARAMETER_VALUE", 400)
            return says({"model_version": self.versions[query["name"], number]})
        if parts.path == f"{API}/model-versions/get":
            return says({"model_version": self.versions[known]}) if known in self.versions else unknown()
        if parts.path == f"{API}/model-versions/get-download-uri":
            return says({"artifact_uri": self.roots["/".join(known)]})
        if parts.path == f"{API}/registered-models/search":
            names = sorted({name for name, _ in self.versions})
            models = [
                {"name": name, "aliases": [
                    {"alias": alias, "version": number} for (of, alias), number in self.aliases.items() if of == name
                ]}
                for name in names
            ]  # fmt: skip
            return self._pages("registered_models", models, query)
        if parts.path == f"{API}/model-versions/search":
            found = [each for (name, _), each in self.versions.items() if query["filter"] == f"name='{name}'"]
            return self._pages("model_versions", found, query)
        if parts.path == f"{API}/runs/get" and query["run_id"] in self.metrics:
            values = [{"key": key, "value": value} for key, value in self.metrics[query["run_id"]].items()]
            return says({"run": {"info": {"run_id": query["run_id"]}, "data": {"metrics": values}}})
        if parts.path == f"{API}/runs/get":
            run = query["run_id"]
            if run not in self.roots:
                return unknown()
            return says({"run": {"info": {"run_id": run, "artifact_uri": self.roots[run]}}})
        if parts.path == ARTIFACTS:
            return says(self._listing(query["path"]))
        if parts.path == "/model-versions/get-artifact":
            return self._file(f"{'/'.join(known)}/{query['path']}", None)
        return self._file(unquote(parts.path.removeprefix(f"{ARTIFACTS}/")), handler.headers.get("Range"))

    def _listing(self, path: str) -> dict[str, Any]:
        files, folders = [], set()
        for name, content in self.files.items():
            if name.startswith(f"{path}/"):
                first, _, rest = name[len(path) + 1 :].partition("/")
                if rest:
                    folders.add(first)
                else:
                    files.append({"path": first, "is_dir": False, "file_size": len(content)})
        listed = files + [{"path": name, "is_dir": True} for name in sorted(folders)]
        # An empty list is left out of the JSON of a protocol buffer.
        return {"files": listed} if listed else {}

    def _file(self, path: str, span: str | None) -> Send:
        content = self.files.get(path)
        if content is None:
            return unknown()
        if self.passes_on:
            self.sent += len(content)
            return says(content)
        tag = f'"{md5(content, usedforsecurity=False).hexdigest()}"'
        if span is None:
            self.sent += len(content)
            return says(content, ETag=tag)
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
        if start >= len(content):
            return says(b"", 416)
        self.sent += stop - start
        told = {"ETag": tag, "Content_Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        return says(content[start:stop], 206, **told)


@contextmanager
def scripted() -> Iterator[Registry]:
    """A registry that listens."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            try:
                registry.answer(self)(self)
            except OSError:
                # The client went away, as a test wanted it to.
                self.close_connection = True

        def do_POST(self) -> None:
            registry.change(self)(self)

        do_DELETE = do_POST

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
