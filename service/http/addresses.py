"""Where callers reach the service: below which path, behind which proxy. No address is ever made of a request's Host
header, which whoever sends the request chooses."""

import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import quote

from fastapi import Request
from starlette.datastructures import URL, Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import Settings
from service.settings_checks import path_below

Networks = Sequence[IPv4Network | IPv6Network]
HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
WHOLE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
"""The front of a request's target that names a server, too."""
KEPT_IN_PATH = "/:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class Reached:
    """How one request came here."""

    prefix: str = ""
    """The path below which the caller sees the service: nothing, or ``/spinal``."""
    public: str | None = None
    """The whole address of the service, where an operator or a trusted proxy has said it."""


DIRECTLY = Reached()
_reached: ContextVar[Reached] = ContextVar("reached", default=DIRECTLY)


def local(path: str) -> str:
    """``path`` of the service as its caller sees it: below the prefix, on the same host."""
    return _reached.get().prefix + path


def shared(path: str) -> str:
    """The address of ``path`` for somebody else, in a report for example: with its host where one is configured, and
    :func:`local` where none is."""
    public = _reached.get().public
    return local(path) if public is None else public + path


def asked(request: Request, path: str | None = None) -> URL:
    """What a request asked for, or ``path`` with its query, without a host."""
    query = request.scope["query_string"].decode("ascii", "replace")
    escaped = local(quote(request.scope["path"] if path is None else path, KEPT_IN_PATH))
    return URL(f"{escaped}?{query}" if query else escaped)


class Reaching:
    """Outermost: finds out how a request came, takes the prefix off its path, and lets everything further in know.
    Inside there is only one form of a request, whatever its proxies do."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reached = reached_by(scope, self._settings)
        # A copy: the server goes on to look at its own, at the method for example.
        scope = {**scope, "path": inner_path(scope["path"], reached.prefix), "root_path": ""}
        token = _reached.set(reached)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _never_guess(message)
            await send(message)

        try:
            await self._app(scope, receive, guarded)
        finally:
            _reached.reset(token)


def _never_guess(message: Message) -> None:
    headers = list(message.get("headers", ()))
    if all(name.lower() != b"x-content-type-options" for name, _ in headers):
        message["headers"] = [*headers, (b"x-content-type-options", b"nosniff")]


def inner_path(path: str, prefix: str) -> str:
    """The path inside the service, whether a proxy took the prefix off or left it, and without the server that the
    absolute form of a target names."""
    if not path.startswith("/"):
        path = WHOLE.sub("", path, count=1) or "/"
    if prefix and (path == prefix or path.startswith(f"{prefix}/")):
        return path[len(prefix) :] or "/"
    return path


def reached_by(scope: Scope, settings: Settings) -> Reached:
    """What the settings say, and what a proxy says that they trust."""
    prefix, public = settings.prefix, settings.public_url
    if not is_trusted(scope, settings.trusted_proxies):
        return Reached(prefix, public)
    headers = Headers(scope=scope)
    said = _last(headers, "x-forwarded-prefix")
    if said is not None:
        prefix = path_below(said) if _is_prefix(said) else prefix
    host = _last(headers, "x-forwarded-host")
    if public is None and host is not None and HOST.match(host):
        scheme = _last(headers, "x-forwarded-proto") or scope.get("scheme", "http")
        if scheme in ("http", "https"):
            public = f"{scheme}://{host}{prefix}"
    return Reached(prefix, public)


def is_trusted(scope: Scope, networks: Networks) -> bool:
    """Whether the peer of the connection is one of the proxies that the operator trusts."""
    peer = scope.get("client")
    if not networks or not peer:
        return False
    try:
        address = ip_address(peer[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any(each in network for network in networks for each in (address, mapped) if each is not None)


def _is_prefix(said: str) -> bool:
    try:
        path_below(said)
    except ValueError:
        return False
    return True


def _last(headers: Headers, name: str) -> str | None:
    """What the nearest proxy says: the last value of a list to which every proxy appends."""
    values = [part.strip() for value in headers.getlist(name) for part in value.split(",")]
    return values[-1] if values and values[-1] else None
