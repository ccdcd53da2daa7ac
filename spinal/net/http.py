"""Requests to servers that are not ours.

>>> hub = Http(Reachable(("huggingface.co", "*.hf.co")))
>>> hub.read("http://169.254.169.254/latest/meta-data")
Traceback (most recent call last):
spinal.errors.sources.SourceRefused: the host 169.254.169.254 is not listed for this source
"""

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType

import httpx

from spinal.errors.faults import shown
from spinal.errors.sources import SourceUnavailable
from spinal.net.addresses import Reachable
from spinal.net.targets import Target, check, redirected, target_of
from spinal.net.transport import Body, Transport
from spinal.version import VERSION

__all__ = ["Answer", "Http", "Reachable", "pieces", "retry_after_s"]

REDIRECTS = frozenset({301, 302, 303, 307, 308})
METHODS = frozenset({"GET", "HEAD"})
CHANGING = frozenset({"POST", "PATCH", "PUT", "DELETE"})
READ_S = 60.0
"""For one ``read`` where nobody set a deadline."""
LONGEST_WAIT_S = 3600.0
LONGEST_DATE = 64
MOST_DRAINED, DRAINED_S = 65_536, 1.0
"""Bytes of a redirect's own answer, and seconds for them, that are read so that its connection can be used again."""
KEPT_HEADERS = frozenset({"accept", "accept-encoding", "range", "if-range", "if-match", "if-none-match", "user-agent"})
"""What goes along when a redirect leads to another origin. All others may be secrets."""
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?")


@dataclass(frozen=True)
class Answer:
    """A whole answer. Its texts are the server's: show none of them raw."""

    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    """Where it came from in the end; a signed URL is a secret."""


class Http:
    """Asks listed hosts, at allowed addresses, in bounded time. Threads may share it.

    ``credentials`` are headers for ``origin`` (``scheme://host[:port]``) alone. Nothing comes from the environment but
    the certificates that OpenSSL trusts; ``ca_file`` is trusted in their place. ``read_s``: seconds until the head of
    an answer is whole, and between two pieces of its body. Raises ValueError.
    """

    def __init__(
        self,
        reachable: Reachable,
        *,
        origin: str | None = None,
        credentials: Mapping[str, str] = {},
        connect_s: float = 5.0,
        read_s: float = 10.0,
        ca_file: Path | None = None,
    ) -> None:
        if credentials and origin is None:
            raise ValueError("credentials without the origin they are for")
        self._origin = None if origin is None else _origin_of(origin)
        self._credentials = _checked(credentials)
        self._reachable = reachable
        self._transport = Transport(reachable, _tls(ca_file), connect_s, read_s)

    def __enter__(self) -> "Http":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    @contextmanager
    def stream(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] = {},
        redirects: int = 0,
        deadline: float | None = None,
    ) -> Iterator[httpx.Response]:
        """Ask, and give the answer before its body, which :func:`pieces` reads. Follows at most ``redirects``
        redirects; with 0 a redirect is an answer like others. ``deadline`` (``time.monotonic``) bounds everything,
        the body included. Every status is an answer. Raises SourceRefused, SourceUnavailable."""
        response = self._asked(url, method, httpx.Headers(_checked(headers)), redirects, deadline)
        try:
            yield response
        finally:
            response.close()

    def read(
        self,
        url: str,
        *,
        method: str = "GET",
        most_bytes: int = 1 << 20,
        headers: Mapping[str, str] = {},
        redirects: int = 0,
        deadline: float | None = None,
    ) -> Answer:
        """A whole answer of at most ``most_bytes`` bytes, within a minute where there is no ``deadline``. Raises as
        :meth:`stream`; SourceUnavailable also for a longer one."""
        ends = time.monotonic() + READ_S if deadline is None else deadline
        body = bytearray()
        with self.stream(url, method=method, headers=headers, redirects=redirects, deadline=ends) as response:
            for piece in pieces(response):
                body += piece
                if len(body) > most_bytes:
                    raise SourceUnavailable(f"{_host(response)}: its answer is longer than {most_bytes} bytes")
            return Answer(response.status_code, response.headers, bytes(body), str(response.url))

    def post(
        self,
        url: str,
        body: bytes,
        *,
        headers: Mapping[str, str] = {},
        most_bytes: int = 1 << 16,
        deadline: float | None = None,
        method: str = "POST",
        head_only: bool = False,
    ) -> Answer:
        """Send a body, over a connection of its own and never twice, and read the answer; a redirect is an answer like
        others. ``method`` may be another that changes something (PATCH, PUT, DELETE). ``head_only``: what follows the
        head of the answer is neither kept nor waited for, however long it is. Raises as :meth:`read`: SourceUnavailable
        does not say that nothing was done."""
        if method not in CHANGING:
            raise ValueError(f"only {', '.join(sorted(CHANGING))} send a body, not {method!r}")
        ends = time.monotonic() + READ_S if deadline is None else deadline
        told = httpx.Headers(_checked(headers))
        told.update({"Content-Length": str(len(body)), "Connection": "close"})
        response = self._once(target_of(url), method, told, True, ends, body)
        if head_only:
            _drain(response)
            return Answer(response.status_code, response.headers, b"", str(response.url))
        got = bytearray()
        try:
            for piece in pieces(response):
                got += piece
                if len(got) > most_bytes:
                    raise SourceUnavailable(f"{_host(response)}: its answer is longer than {most_bytes} bytes")
            return Answer(response.status_code, response.headers, bytes(got), str(response.url))
        finally:
            response.close()

    def _asked(
        self, url: str, method: str, headers: httpx.Headers, redirects: int, deadline: float | None
    ) -> httpx.Response:
        if method not in METHODS:
            raise ValueError(f"only GET and HEAD are asked, not {method!r}")
        target = target_of(url)
        trusted = True
        for _ in range(redirects + 1):
            response = self._once(target, method, headers, trusted, deadline)
            location = response.headers.get("location") if response.status_code in REDIRECTS else None
            if not redirects or location is None:
                return response
            _drain(response)
            following = redirected(target, location)
            check(following, self._reachable, via=target.host)
            if following.origin != target.origin:
                # For good: a server elsewhere does not send our credentials back to where they came from either.
                trusted = False
                headers = httpx.Headers({name: headers[name] for name in headers if name in KEPT_HEADERS})
            target = following
        raise SourceUnavailable(f"{target.host}: redirected more than {redirects} times")

    def _once(
        self,
        target: Target,
        method: str,
        headers: httpx.Headers,
        trusted: bool,
        deadline: float | None,
        body: bytes | None = None,
    ) -> httpx.Response:
        sent = httpx.Headers({"User-Agent": f"spinal/{VERSION}", "Accept": "*/*", "Accept-Encoding": "identity"})
        sent.update(headers)
        if trusted and target.origin == self._origin:
            sent.update(self._credentials)
        request = httpx.Request(method, target.url, headers=sent, content=body, extensions={"deadline": deadline})
        return self._transport.handle_request(request)


def pieces(response: httpx.Response, deadline: float | None = None) -> Iterator[bytes]:
    """The bytes of an answer as they came, none longer than a mebibyte and none decoded. ``deadline``
    (``time.monotonic``) is an earlier end than the one that the request was made with. Raises SourceUnavailable where
    the server cuts off, stalls or encodes what was not asked for."""
    _as_asked(response)
    yield from _raw(response, deadline)


def _raw(response: httpx.Response, deadline: float | None) -> Iterator[bytes]:
    body = response.stream
    if isinstance(body, Body) and deadline is not None:
        body.ends = min(body.ends, deadline)
    return response.iter_raw()


def retry_after_s(headers: httpx.Headers, *, most_s: float = LONGEST_WAIT_S) -> float | None:
    """Seconds that a server asked to wait (``Retry-After``: seconds or a date), from 0 to ``most_s``; None where it did
    not say, or not readably."""
    said = headers.get("retry-after", "").strip()
    if len(said) > LONGEST_DATE:
        return None
    if re.fullmatch(r"[0-9]+", said):
        return min(float(said), most_s)
    try:
        when = parsedate_to_datetime(said)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    wait = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)) - datetime.now(UTC)
    return min(max(wait.total_seconds(), 0.0), most_s)


def _as_asked(response: httpx.Response) -> None:
    if response.request.method == "HEAD":
        return
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    asked = response.request.headers.get("accept-encoding", "identity").lower()
    if encoding not in {"identity", "", *(part.partition(";")[0].strip() for part in asked.split(","))}:
        raise SourceUnavailable(
            f"{_host(response)}: its answer is encoded ({shown(encoding)[:40]}), which was not asked for"
        )


def _drain(response: httpx.Response) -> None:
    seen = 0
    try:
        for piece in _raw(response, time.monotonic() + DRAINED_S):
            seen += len(piece)
            if seen > MOST_DRAINED:
                break
    except SourceUnavailable:
        pass  # where it leads is known: the rest costs a connection, no more
    finally:
        response.close()


def _host(response: httpx.Response) -> str:
    return response.request.url.raw_host.decode("ascii")


def _origin_of(origin: str) -> tuple[str, str, int]:
    target = target_of(origin)
    if target.url.raw_path != b"/" or origin.endswith(("/", "?", "#")):
        raise ValueError("an origin is scheme://host[:port], without a path")
    return target.origin


def _checked(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers that HTTP allows. A library that meets others prints their values, which may be secrets."""
    for name, value in headers.items():
        if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the header {shown(name)!r} has a name or a value that HTTP does not allow")
    return dict(headers)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError:  # SSLError among them
        name = "" if ca_file is None else ca_file.name
        raise ValueError(f"{shown(name)!r} is no readable file of certificates (PEM)") from None
