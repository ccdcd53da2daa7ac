"""Connections that are made to judged addresses alone, and end in time.

The pool of httpcore asks a network backend for connections; this one looks a name up itself, judges each address,
connects to that very address and looks at the other end before a byte is sent.
"""

import logging
import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, NoReturn

import httpcore
import httpx

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.addresses import Address, Reachable
from spinal.net.resolver import addresses_of
from spinal.net.targets import Target, check, target_of

MOST_ADDRESSES = 8
"""Of one host that are tried."""
MOST_CONNECTIONS = 64
KEPT_CONNECTIONS = 8
KEPT_S = 5.0
"""How long an idle connection is kept: servers close theirs later than that, so none is used that they just closed."""


@dataclass(frozen=True)
class Exchange:
    """The request at hand in this thread. httpcore hands connections from one request to the next, and knows timeouts
    of single steps only."""

    ends: float
    """``time.monotonic``; infinite where nobody set an end."""
    clear: bool


_at_hand: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def _exchanging(exchange: Exchange) -> Iterator[None]:
    before = _at_hand.set(exchange)
    try:
        yield
    finally:
        _at_hand.reset(before)


class Unlogged(logging.Filter):
    """Drops what httpcore logs of our requests: at DEBUG it prints every header of an answer, signed URLs and cookies
    among them. Other users of httpcore keep their records."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _at_hand.get() is None


UNLOGGED = Unlogged()
LOGGERS = ("httpcore.connection", "httpcore.http11")


class Stream(httpcore.NetworkStream):
    """One connection; every step ends with the exchange."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(_left(timeout))
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(error) from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            while buffer:
                self._socket.settimeout(_left(timeout))
                buffer = buffer[self._socket.send(buffer) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout(error) from error
        except OSError as error:
            raise httpcore.WriteError(error) from error

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(_left(timeout))
            return Stream(ssl_context.wrap_socket(self._socket, server_hostname=server_hostname))
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(error) from error
        except (OSError, ValueError) as error:
            self.close()
            raise httpcore.ConnectError(error) from error

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._socket if isinstance(self._socket, ssl.SSLSocket) else None
        return self._readable() if info == "is_readable" else None

    def _readable(self) -> bool:
        """An idle connection on which something is to be read was closed by its server, or is out of step."""
        if self._socket.fileno() < 0:
            return True
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))


class Backend(httpcore.NetworkBackend):
    """Makes connections to allowed addresses of listed hosts."""

    def __init__(self, reachable: Reachable) -> None:
        self._reachable = reachable

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        ends = time.monotonic() + _left(timeout)
        clear = (exchange := _at_hand.get()) is not None and exchange.clear
        try:
            found = addresses_of(host, port, ends)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(error) from error
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        allowed = [each for each in found if self._reachable.admits(each, host, port, clear=clear)]
        if not allowed:
            raise _not_public(host, clear)
        return Stream(self._connected(allowed[:MOST_ADDRESSES], host, port, ends, clear))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> NoReturn:
        raise SourceRefused("a socket of this machine is no host")

    def _connected(self, addresses: list[Address], host: str, port: int, ends: float, clear: bool) -> socket.socket:
        """Connect to the first address that answers; one that does not leaves the others their share of the time."""
        failure: Exception = httpcore.ConnectTimeout()
        for tried, address in enumerate(addresses):
            share = (ends - time.monotonic()) / (len(addresses) - tried)
            if share <= 0:
                break
            family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
            connected = socket.socket(family, socket.SOCK_STREAM)
            try:
                connected.settimeout(share)
                connected.connect((str(address), port))
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = ip_address(connected.getpeername()[0])
            except TimeoutError:
                connected.close()
                failure = httpcore.ConnectTimeout()
            except OSError as error:
                connected.close()
                failure = httpcore.ConnectError(error)
            else:
                if peer == address and self._reachable.admits(peer, host, port, clear=clear):
                    return connected
                connected.close()
                raise _not_public(host, clear)
        raise failure


def _not_public(host: str, clear: bool) -> SourceRefused:
    what = "outside this network, in clear" if clear else "not public"
    return SourceRefused(
        f"the host {host} leads to an address that is {what}",
        hint="An operator lists hosts of the own network, or the network itself, as private.",
    )


def _left(timeout: float | None) -> float:
    """Seconds for the next step. Raises TimeoutError where the exchange has to be over."""
    exchange = _at_hand.get()
    ends = float("inf") if exchange is None else exchange.ends - time.monotonic()
    if ends <= 0:
        raise TimeoutError
    return min(ends, 60.0 if timeout is None else timeout)


class Body(httpx.SyncByteStream):
    """The bytes of an answer as they come, until ``ends`` (``time.monotonic``). Raises SourceUnavailable."""

    def __init__(self, stream: Any, target: Target, ends: float) -> None:
        self._stream, self._target, self.ends = stream, target, ends

    def __iter__(self) -> Iterator[bytes]:
        coming = iter(self._stream)
        while True:
            with _exchanging(self._exchange()), _told(self._target.host, self.ends, begun=True):
                _left(None)
                piece = next(coming, None)
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        with _exchanging(self._exchange()):
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
        ends = request.extensions.get("deadline") or float("inf")
        head = Exchange(min(ends, time.monotonic() + self._connect_s + self._read_s), target.scheme == "http")
        with _exchanging(head), _told(target.host, head.ends):
            _left(None)
            answer = self._pool.handle_request(self._asked(request, target))
        body = Body(answer.stream, target, ends)
        if answer.status < 200:
            body.close()
            raise SourceUnavailable(f"{target.host} wants another protocol than HTTP")
        return httpx.Response(answer.status, headers=answer.headers, stream=body, request=request)

    def _asked(self, request: httpx.Request, target: Target) -> httpcore.Request:
        timeouts = {"connect": self._connect_s, "pool": self._connect_s, "read": self._read_s, "write": self._read_s}
        url = httpcore.URL(
            scheme=target.scheme, host=target.host.encode(), port=target.port, target=request.url.raw_path
        )
        return httpcore.Request(request.method, url, headers=request.headers.raw, extensions={"timeout": timeouts})

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
