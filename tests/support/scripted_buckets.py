"""Object stores that answer what a test says: doubles, for what a real one never answers, and for Google's.

They speak as much HTTP as the three requests of ``spinal/net/objects.py`` need, on loopback, and keep what they were
asked.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    """Without its escapes."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    line: str


@dataclass(frozen=True)
class Told:
    """An answer; ``pieces`` in place of ``body`` is written as it comes, and ends with the connection."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: Iterator[bytes] | None = None


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are what is tested."""


class ScriptedServer:
    """Answers every request with ``answer(request)``."""

    def __init__(self, answer: Callable[[Asked], Told]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in two packets would wait for each other.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer._answer(self)

            do_HEAD = do_POST = do_PUT = do_CONNECT = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        asked = Asked(handler.command, unquote(parts.path), query, headers, handler.requestline)
        self.asked.append(asked)
        told = self.answer(asked)
        try:
            self._write(handler, told)
        except OSError:
            handler.close_connection = True

    def _write(self, handler: BaseHTTPRequestHandler, told: Told) -> None:
        handler.send_response(told.status)
        for name, value in told.headers.items():
            handler.send_header(name, value)
        if told.pieces is None and "content-length" not in {name.lower() for name in told.headers}:
            handler.send_header("Content-Length", str(len(told.body)))
        handler.close_connection = told.pieces is not None or bool(told.headers.get("Connection"))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        handler.wfile.write(told.body)
        for piece in told.pieces or ():
            handler.wfile.write(piece)
            handler.wfile.flush()


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@dataclass
class Content:
    """A well-behaved bucket of either kind: what it answers about the objects that it holds."""

    objects: dict[str, bytes]
    """By key."""
    google: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    """More headers of every object."""
    generations: dict[str, int] = field(default_factory=dict)

    def __call__(self, asked: Asked) -> Told:
        _, _, key = asked.path.removeprefix("/").partition("/")
        if not key:
            return self._list(asked)
        content = self.objects.get(key)
        if content is None or asked.query.get("generation", self._generation(key)) != self._generation(key):
            return refusal(404, "NoSuchKey")
        etag = etag_of(content)
        headers = {"ETag": etag, **self.headers}
        if self.google:
            headers["x-goog-generation"] = self._generation(key)
        if asked.method == "HEAD":
            return Told(200, headers | {"Content-Length": str(len(content))})
        if asked.headers.get("if-match", etag) != etag:
            return refusal(412, "PreconditionFailed")
        if "range" not in asked.headers:
            return Told(200, headers, content)
        first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
        told = content[int(first) : int(last) + 1]
        return Told(206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, told)

    def _generation(self, key: str) -> str:
        return str(self.generations.get(key, 1))

    def _list(self, asked: Asked) -> Told:
        prefix = asked.query["prefix"]
        entries = ""
        for key, content in sorted(self.objects.items()):
            if key.startswith(prefix) and "/" not in key[len(prefix) :]:
                generation = f"<Generation>{self._generation(key)}</Generation>" if self.google else ""
                entries += entry(key, len(content), etag_of(content), generation)
        return Told(body=listing(entries))


def entry(key: str, size: object, etag: str, more: str = "") -> str:
    return f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{escape(etag)}</ETag>{more}</Contents>"


def listing(entries: str, more: str = "<IsTruncated>false</IsTruncated>") -> bytes:
    return (
        f"<?xml version='1.0' encoding='UTF-8'?>\n<ListBucketResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'>"
        f"{more}{entries}</ListBucketResult>"
    ).encode()


def refusal(status: int, code: str, message: str = "", **headers: str) -> Told:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Told(status, {name.replace("_", "-"): value for name, value in headers.items()}, body.encode())


def claims_of(token: str, public_key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Head and claims of a token, as Google checks it: signed by the account's key. Raises InvalidSignature."""
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signed, _, signature = token.rpartition(".")
    public_key.verify(_unpacked(signature), signed.encode(), PKCS1v15(), SHA256())
    head, claims = (json.loads(_unpacked(part)) for part in signed.split("."))
    return head, claims


def _unpacked(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
