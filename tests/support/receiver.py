"""A receiver of webhooks on loopback: writes down what reaches it, and answers as a test wants."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from standardwebhooks import Webhook


@dataclass(frozen=True)
class Got:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def verify(self, secret: str) -> None:
        """By the library of the standard, whose clock is now. Raises where it does not take it."""
        Webhook(secret).verify(self.body, self.headers)


Answering = Callable[[socket.socket, Got], None]


def says(status: int = 200, body: bytes = b"", **headers: str) -> Answering:
    """A plain answer; ``retry_after="5"`` is a header."""
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    def answer(connection: socket.socket, _got: Got) -> None:
        connection.sendall(
            f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n{head}connection: close\r\n\r\n".encode() + body
        )

    return answer


class Receiver:
    """Accepts on a free port. ``answers`` are used up one by one; the last one stays."""

    def __init__(self, *answers: Answering, port: int = 0) -> None:
        self.answers = list(answers) or [says()]
        self.got: list[Got] = []
        self.connections = 0
        self.closing = threading.Event()
        self._bound = socket.create_server(("127.0.0.1", port))
        self.port: int = self._bound.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        # Closing alone leaves one that waits for a connection, and takes it.
        self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._bound.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                got = self._read(connection)
                if got is None:
                    return
                self.got.append(got)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                answer(connection, got)
            except OSError:
                pass  # whoever asked has gone away

    @staticmethod
    def _read(connection: socket.socket) -> Got | None:
        came = b""
        while b"\r\n\r\n" not in came:
            piece = connection.recv(65536)
            if not piece:
                return None
            came += piece
        head, _, body = came.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536)
        return Got(first.split(" ")[1], headers, body)
