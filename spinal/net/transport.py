"""One request over judged connections, with every failure told as one of ours."""

import logging
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpcore
import httpx

from spinal.errors.sources import SourceUnavailable
from spinal.net.addresses import Reachable
from spinal.net.connections import AT_HAND, Backend, Exchange, exchanging, left
from spinal.net.targets import Target, check, target_of

READING = (b"GET", b"HEAD")
MOST_CONNECTIONS = 64
KEPT_CONNECTIONS = 8
KEPT_S = 5.0
"""How long an idle connection is kept: servers close theirs later than that, so none is used that they just closed."""


class Unlogged(logging.Filter):
    """Drops what httpcore logs of our requests: at DEBUG it prints every header of an answer, signed URLs and cookies
    among them. Other users of httpcore keep their records."""

    def filter(self, record: logging.LogRecord) -> bool:
        return AT_HAND.get() is None


UNLOGGED = Unlogged()
LOGGERS = ("httpcore.connection", "httpcore.http11")


class Body(httpx.SyncByteStream):
    """The bytes of an answer as they come, until ``ends`` (``time.monotonic``). Raises SourceUnavailable."""

    def __init__(self, stream: Any, target: Target, ends: float) -> None:
        self._stream, self._target, self.ends = stream, target, ends

    def __iter__(self) -> Iterator[bytes]:
        coming = iter(self._stream)
        while True:
            with exchanging(self._exchange()), _told(self._target.host, self.ends, begun=True):
                left(None)
                piece = next(coming, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        with exchanging(self._exchange()):
            self._stream.close()

    def _exchange(self) -> Exchange:
        return Exchange(self.ends, self._target.scheme == "http")


class Transport(httpx.BaseTransport):
    """Carries out one request after checking it. Raises SourceRefused and SourceUnavailable, nothing of httpcore."""

    def __init__(self, reachable: Reachable, tls: ssl.SSLContext, connect_s: float, read_s: float) -> None:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(UNLOGGED)
        self._reachable, self._connect_s, self._read_s = reachable, connect_s, read_s
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=MOST_CONNECTIONS,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_S,
            network_backend=Backend(reachable),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """``request.extensions["deadline"]`` bounds the whole exchange (``time.monotonic``). Its head has to be here
        within the seconds for connecting and for reading together, however slowly it drips."""
        target = target_of(str(request.url))
        check(target, self._reachable)
        deadline: float | None = request.extensions.get("deadline")
        ends = float("inf") if deadline is None else deadline
        head = Exchange(min(ends, time.monotonic() + self._connect_s + self._read_s), target.scheme == "http")
        with exchanging(head), _told(target.host, head.ends):
            answer = self._answer(self._asked(request, target), head)
        body = Body(answer.stream, target, ends)
        return httpx.Response(answer.status, headers=answer.headers, stream=body, request=request)

    def _answer(self, asked: httpcore.Request, head: Exchange) -> httpcore.Response:
        """Servers close idle connections when they like. One that is gone costs no more than another request, which
        does no harm where nothing but reading is asked. What changes something is never asked twice."""
        while True:
            left(None)
            try:
                return self._pool.handle_request(asked)
            except (httpcore.NetworkError, httpcore.RemoteProtocolError):
                if head.fresh or asked.method not in READING:
                    raise

    def _asked(self, request: httpx.Request, target: Target) -> httpcore.Request:
        timeouts = {"connect": self._connect_s, "pool": self._connect_s, "read": self._read_s, "write": self._read_s}
        url = httpcore.URL(
            scheme=target.scheme, host=target.host.encode(), port=target.port, target=request.url.raw_path
        )
        return httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.read(), extensions={"timeout": timeouts}
        )

    def close(self) -> None:
        self._pool.close()


@contextmanager
def _told(host: str, ends: float, *, begun: bool = False) -> Iterator[None]:
    """Whatever goes wrong on the way, as one line with the host. Without its cause: texts of the libraries hold URLs,
    headers and what a server sent."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, TimeoutError) as error:
        late = time.monotonic() >= ends
        raise SourceUnavailable(f"{host}: {_reason(error, late, begun)}") from None


def _reason(error: Exception, late: bool, begun: bool) -> str:
    cause = error.args[0] if error.args else None  # the pool of httpcore cuts `__cause__` off
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, ssl.SSLError):
        return "TLS failed"
    if isinstance(cause, socket.gaierror):
        return "no address is known for this name"
    if late:
        return "its answer took too long"
    match error:
        case httpcore.PoolTimeout():
            return "too many requests to it at once"
        case httpcore.ConnectTimeout():
            return "no connection in time"
        case httpcore.TimeoutException():
            return "nothing came for too long"
        case httpcore.ConnectError():
            return "connection refused" if isinstance(cause, ConnectionRefusedError) else "no connection"
        case httpcore.LocalProtocolError():
            return "a request that HTTP does not allow"
    return "its answer breaks off" if begun else "no answer, or one that is not HTTP"
