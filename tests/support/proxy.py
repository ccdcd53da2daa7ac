"""A TCP proxy on loopback that can hold, cut or watch what passes: the network between a process and its server."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

CHUNK = 65536


class Proxy:
    """Forwards to ``127.0.0.1:port``. Connections made while nothing is armed pass as they are.

    ``cut_commit`` arms one cut: the connection that sends the COMMIT of a transaction in which ``marker`` was sent is
    closed, before the server sees the COMMIT or after the server carried it out. With ``instead`` that is called at
    this point and the connection is left alone.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._held: set[socket.socket] = set()
        self._marker: bytes | None = None
        self._before = False
        self._instead: Callable[[], None] | None = None
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut_commit(self, marker: bytes, *, before: bool, instead: Callable[[], None] | None = None) -> None:
        with self._lock:
            self._marker, self._before, self._instead = marker, before, instead

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _close(end)

    def half_open(self) -> None:
        """From now on nothing passes on the present connections, and nobody is told. New ones work."""
        with self._lock:
            self._held.update(end for pair in self._pairs for end in pair)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
            commit_answer = threading.Event()
            threading.Thread(target=self._up, args=(client, server, commit_answer), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, commit_answer), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        """From the client to the server."""
        sent = b""
        with contextlib.suppress(OSError):
            while chunk := client.recv(CHUNK):
                if client in self._held:
                    continue
                sent += chunk
                if b"COMMIT" in chunk:
                    if self._takes(sent):
                        self._at_commit(client, server, chunk, swallow)
                        sent = b""
                        continue
                    sent = b""
                server.sendall(chunk)
        _close(client)
        _close(server)

    def _takes(self, sent: bytes) -> bool:
        with self._lock:
            if self._marker is None or self._marker not in sent:
                return False
            self._marker = None
            self.cuts += 1
            return True

    def _at_commit(self, client: socket.socket, server: socket.socket, chunk: bytes, swallow: threading.Event) -> None:
        if self._before:
            if self._instead is not None:
                self._instead()
            _close(client)
            _close(server)
            return
        swallow.set()
        server.sendall(chunk)

    def _down(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        """From the server to the client. The answer to a COMMIT that is to be cut off never arrives."""
        with contextlib.suppress(OSError):
            while chunk := server.recv(CHUNK):
                if client in self._held:
                    continue
                if swallow.is_set():
                    if self._instead is not None:
                        self._instead()
                    break
                client.sendall(chunk)
        _close(client)
        _close(server)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        end.close()
