"""Connections that are made to judged addresses alone, and end in time.

The pool of httpcore asks a network backend for connections; this one looks a name up itself, judges each address,
connects to that very address and looks at the other end before a byte is sent.
"""

import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any

import httpcore

from spinal.errors.sources import SourceRefused
from spinal.net.addresses import Address, Reachable
from spinal.net.resolver import addresses_of

MOST_ADDRESSES = 8
"""Of one host that are tried."""


@dataclass
class Exchange:
    """The request at hand in this thread. httpcore hands connections from one request to the next, and knows timeouts
    of single steps only."""

    ends: float
    """``time.monotonic``; infinite where nobody set an end."""
    clear: bool
    fresh: bool = False
    """Whether it was given a connection of its own; else one that an earlier request left."""


AT_HAND: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchanging(exchange: Exchange) -> Iterator[None]:
    before = AT_HAND.set(exchange)
    try:
        yield
    finally:
        AT_HAND.reset(before)


def left(timeout: float | None) -> float:
    """Seconds for the next step of the exchange at hand. Raises TimeoutError where the exchange has to be over."""
    exchange = AT_HAND.get()
    ends = float("inf") if exchange is None else exchange.ends - time.monotonic()
    if ends <= 0:
        raise TimeoutError
    return min(ends, 60.0 if timeout is None else timeout)


class Stream(httpcore.NetworkStream):
    """One connection; every step ends with the exchange."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(left(timeout))
            return self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout(error) from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            while buffer:
                self._socket.settimeout(left(timeout))
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
            self._socket.settimeout(left(timeout))
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
        ends = time.monotonic() + left(timeout)
        clear = False
        if (exchange := AT_HAND.get()) is not None:
            clear, exchange.fresh = exchange.clear, True
        try:
            found = addresses_of(host, port, ends)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(error) from error
        except OSError as error:
            raise httpcore.ConnectError(error) from error
        allowed = [each for each in found if self._reachable.admits(each, host, port, clear=clear)]
        if not allowed:
            raise _not_public(host, clear)
        return Stream(self._first(allowed[:MOST_ADDRESSES], host, port, ends, clear))

    def _first(self, addresses: list[Address], host: str, port: int, ends: float, clear: bool) -> socket.socket:
        """Connect to the first address that answers; one that does not leaves the others their share of the time."""
        failure: Exception = httpcore.ConnectTimeout()
        for tried, address in enumerate(addresses):
            share = (ends - time.monotonic()) / (len(addresses) - tried)
            if share <= 0:
                break
            try:
                return _connect(address, port, share)
            except TimeoutError as error:
                failure = httpcore.ConnectTimeout(error)
            except OSError as error:
                failure = httpcore.ConnectError(error)
            except ValueError:
                raise _not_public(host, clear) from None
        raise failure


def _connect(address: Address, port: int, timeout: float) -> socket.socket:
    """Raises OSError; ValueError where somebody else is at the other end than was judged."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    connected = socket.socket(family, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout)
        connected.connect((str(address), port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ip_address(connected.getpeername()[0]) != address:
            raise ValueError("another address than was judged")
    except BaseException:
        connected.close()
        raise
    return connected


def _not_public(host: str, clear: bool) -> SourceRefused:
    what = "outside this network, in clear" if clear else "not public"
    return SourceRefused(
        f"the host {host} leads to an address that is {what}",
        hint="An operator lists hosts of the own network, or the network itself, as private.",
    )
