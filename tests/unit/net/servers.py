"""Listeners on loopback that write down what reaches them, and answer byte for byte what a test wants."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from tests.support.waiting import until

MARKER = b"\x00from the test itself\r\n\r\n"
Answering = Callable[[bytes, "Connection"], None]
"""What to do about one request (its head): given the head and where to write."""


class Connection:
    """One accepted connection."""

    def __init__(self, listener: "Listener", accepted: socket.socket) -> None:
        self.accepted, self._listener = accepted, listener

    def send(self, data: bytes) -> None:
        self.accepted.sendall(data)

    def drip(self, data: Iterable[int], every: float = 0.02) -> None:
        """One byte at a time, until the listener closes."""
        for byte in data:
            if self._listener.closing.wait(every):
                return
            self.send(bytes([byte]))

    def hang(self) -> None:
        """Say nothing more, and stay."""
        self._listener.closing.wait(30)

    def close(self) -> None:
        """As a server that breaks off."""
        self.accepted.shutdown(socket.SHUT_RDWR)
        self.accepted.close()


class Listener:
    """Accepts on a free port of loopback. ``heads`` are the requests so far, ``connections`` how many were accepted."""

    def __init__(self, answering: Answering, tls: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self._answering, self._tls = answering, tls
        self.heads: list[bytes] = []
        self.connections = 0
        self.closing = threading.Event()
        self._bound = socket.create_server(("127.0.0.1", port))
        self.port: int = self._bound.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        # Closing alone leaves one that waits for a connection, and takes it.
        self._bound.shutdown(socket.SHUT_RDWR)
        self._bound.close()

    def assert_untouched(self) -> None:
        """Nobody has connected. Connections are accepted in the order in which they were made, so a connection of the
        test's own would come behind any other."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as own:
            own.sendall(MARKER)
            until(lambda: MARKER in self.heads, "the connection of the test itself")
        assert (self.connections, self.heads) == (1, [MARKER])

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                accepted, _ = self._bound.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        try:
            with accepted if self._tls is None else self._tls.wrap_socket(accepted, server_side=True) as plain:
                connection = Connection(self, plain)
                while (head := _head(plain)) and not self.closing.is_set():
                    self.heads.append(head)
                    if head != MARKER:
                        self._answering(head, connection)
        except OSError:
            pass  # the client went away, which many tests are about


def _head(accepted: socket.socket) -> bytes:
    read = b""
    while not read.endswith(b"\r\n\r\n"):
        if not (more := accepted.recv(65536)):
            return read
        read += more
    return read


def http(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def always(answer: bytes) -> Answering:
    return lambda head, connection: connection.send(answer)


def paths(answers: dict[str, bytes]) -> Answering:
    """By path, whatever the query."""

    def answering(head: bytes, connection: Connection) -> None:
        path = head.split(b" ")[1].partition(b"?")[0].decode()
        connection.send(answers.get(path, http(b"", "404 Not Found")))

    return answering


def sent_headers(head: bytes) -> dict[str, str]:
    """Of a request, by lower-case name."""
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
