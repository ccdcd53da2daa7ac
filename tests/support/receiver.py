"""A receiver of webhooks on loopback: writes down what reaches it, and answers as a test wants."""

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook

from tests.unit.net.servers import Listener


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


class Receiver(Listener):
    """Accepts on a free port. ``answers`` are used up one by one; the last one stays."""

    def __init__(self, *answers: Answering, port: int = 0) -> None:
        super().__init__(lambda _head, _connection: None, port=port)
        self.answers = list(answers) or [says()]
        self.got: list[Got] = []
        self.url = f"{self.url}/hook"

    def _serve(self, accepted: socket.socket) -> None:
        with accepted:
            try:
                got = self._read(accepted)
                if got is None:
                    return
                self.got.append(got)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                answer(accepted, got)
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
            if not (piece := connection.recv(65536)):
                return None
            body += piece
        return Got(first.split(" ")[1], headers, body)
