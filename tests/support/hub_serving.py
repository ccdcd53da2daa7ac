"""Listeners of the hub's double: how an answer goes out, and what goes wrong with it."""

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.support.hub_contents import Blob

PIECE = 64 * 1024


@dataclass
class Fault:
    """What goes wrong with a request that matches ``on``, a pattern over ``PLACE METHOD PATH`` with the place ``hub``
    or ``cdn``. The first fault that matches and is not used up decides."""

    on: str = "*"
    times: int | None = None
    """So many requests; None: each one."""
    status: int | None = None
    """Answered instead, with ``headers`` and ``body``."""
    headers: dict[str, str] = field(default_factory=dict)
    """Beside a status the headers of the answer; without one they take the place of some of the real answer."""
    body: bytes | Callable[[], Iterator[bytes]] = b""
    """Pieces go out as they come, without a length ahead."""
    cut_after: int | None = None
    """The connection ends behind so many bytes of the body."""
    stall_after: int | None = None
    """Nothing more comes behind so many bytes, until the fault is released or the hub heals."""
    bytes_per_s: int | None = None
    corrupt: bool = False
    """The first byte of the body is another one; the length stays."""
    ignore_range: bool = False
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event)


@dataclass
class Seen:
    """One request as it came in. ``sent`` grows while its body goes out, in bytes."""

    place: str
    method: str
    path: str
    token: str | None
    range: str | None
    status: int = 0
    sent: int = 0

    @property
    def what(self) -> str:
        return f"{self.place} {self.method} {self.path}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Blob | Callable[[], Iterator[bytes]] = b""


class Answering(Protocol):
    def note(self, seen: Seen) -> Fault | None: ...
    def answer(self, place: str, method: str, target: str, headers: Mapping[str, str]) -> Answer: ...
    def control(self, told: dict[str, Any]) -> Answer: ...


def refusal(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
    found = as_json({"error": message})
    return Answer(status, {**found.headers, **headers}, found.body)


def as_json(told: object) -> Answer:
    return Answer(200, {"Content-Type": "application/json; charset=utf-8"}, json.dumps(told).encode())


def token_of(headers: Mapping[str, str]) -> str | None:
    found = headers.get("authorization")
    return None if found is None else found.removeprefix("Bearer ")


class Server:
    """One listener, which can go away and come back at its port."""

    def __init__(self, hub: Answering, place: str, port: int) -> None:
        self.hub, self.place, self.port = hub, place, port
        self._http: _Http | None = None
        self._keeper: socket.socket | None = None
        self.start()

    def start(self) -> None:
        if self._http is not None:
            return
        self.leave()
        http = _Http(("127.0.0.1", self.port), _Handler)
        http.hub, http.place, http.open = self.hub, self.place, set()
        self._http, self.port = http, http.server_address[1]
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._http is None:
            return
        http, self._http = self._http, None
        http.shutdown()
        http.server_close()
        for each in list(http.open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        # Bound and not listening: nobody else gets the port, and whoever knocks is refused.
        self._keeper = socket.socket()
        self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._keeper.bind(("127.0.0.1", self.port))

    def leave(self) -> None:
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: Answering
    place: str
    open: set[Any]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Http

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Nothing: requests are in ``seen``."""

    def do_HEAD(self) -> None:
        self._do()

    def do_GET(self) -> None:
        self._do()

    def do_POST(self) -> None:
        self._do()

    def _do(self) -> None:
        hub, place = self.server.hub, self.server.place
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.path.startswith("/-/") and place == "hub":
            self._send(hub.control(self._told()), Fault(), {}, Seen(place, self.command, self.path, None, None))
            return
        path = urlsplit(self.path).path
        seen = Seen(place, self.command, path, token_of(headers), headers.get("range"))
        fault = hub.note(seen) or Fault()
        if fault.status is not None:
            answer = Answer(fault.status, dict(fault.headers), fault.body)
        else:
            answer = hub.answer(place, self.command, self.path, headers)
        self._send(answer, fault, headers, seen)

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        return told

    def _send(self, answer: Answer, fault: Fault, headers: Mapping[str, str], seen: Seen) -> None:
        body, length = answer.body, None
        if isinstance(body, Blob):
            start, end = 0, body.size
            if (asked := _range(headers.get("range"), body.size)) and not fault.ignore_range:
                start, end = asked
                if start >= body.size:
                    answer = refusal(416, "", "Range not satisfiable")
                    answer.headers["Content-Range"] = f"bytes */{body.size}"
                    return self._send(answer, fault, {}, seen)
                answer.status = 206
                answer.headers["Content-Range"] = f"bytes {start}-{end - 1}/{body.size}"
            length, pieces = end - start, _of_blob(body, start, end)
        elif isinstance(body, bytes):
            length, pieces = len(body), iter([body] if body else [])
        else:
            pieces = body()
        self._start(Answer(answer.status, answer.headers | fault.headers), length, seen)
        if self.command != "HEAD":
            self._body(pieces, fault, seen, chunked=length is None)

    def _start(self, answer: Answer, length: int | None, seen: Seen) -> None:
        seen.status = answer.status
        self.send_response(answer.status)
        if not {"content-length", "transfer-encoding"} & {name.lower() for name in answer.headers}:
            name, value = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
            self.send_header(name, value)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, pieces: Iterator[bytes], fault: Fault, seen: Seen, *, chunked: bool) -> None:
        first = True
        for whole in pieces:
            piece = bytes([whole[0] ^ 1]) + whole[1:] if first and fault.corrupt and whole else whole
            first = False
            for part in _parts(piece, seen.sent, fault):
                if seen.sent == fault.stall_after:
                    fault.released.wait()
                if seen.sent == fault.cut_after:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if fault.bytes_per_s is not None:
                    fault.released.wait(len(part) / fault.bytes_per_s)
                seen.sent += len(part)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


def _parts(piece: bytes, sent: int, fault: Fault) -> Iterator[bytes]:
    """``piece`` divided where a fault acts; an empty part stands for a fault behind its end."""
    at = {stop - sent for stop in (fault.cut_after, fault.stall_after) if stop is not None}
    step = max(1, fault.bytes_per_s // 20) if fault.bytes_per_s is not None else len(piece)
    edges = sorted({0, len(piece), *range(0, len(piece), step or 1), *(each for each in at if 0 < each < len(piece))})
    for start, end in itertools.pairwise(edges):
        yield piece[start:end]


def _of_blob(blob: Blob, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, PIECE):
        yield blob.read(at, min(at + PIECE, end))


def _range(asked: str | None, size: int) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if found is None:
        return None
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
