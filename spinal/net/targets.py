"""What a URL asks for, read in one way only.

Parsers disagree on odd URLs, and a check that reads another host than the request does is no check. So a URL is read by
one strict pattern; what does not fit it is refused, not repaired.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import urljoin

import httpx

from spinal.errors.faults import shown
from spinal.errors.sources import SourceRefused
from spinal.net.addresses import Reachable, host_of

LONGEST_URL = 16_384
PORTS = {"http": 80, "https": 443}
URL = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::([0-9]{1,5}))?(?=[/?#]|\Z)", re.IGNORECASE)
LISTED = "An operator names the hosts of a source in its settings."


@dataclass(frozen=True)
class Target:
    """Where a request goes. ``url`` may be a secret: a signed one opens what it names."""

    scheme: str
    host: str
    """As :func:`spinal.net.addresses.host_of` writes it."""
    port: int
    url: httpx.URL = field(repr=False)

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def target_of(url: str) -> Target:
    """Read an absolute URL. Raises SourceRefused, whose text never holds the URL."""
    found = URL.match(url) if len(url) <= LONGEST_URL else None
    if found is None:
        raise SourceRefused(
            "a URL that is not plainly http(s)://host[:port]/path", hint="User names in a URL are not allowed either."
        )
    scheme, written = found[1].lower(), found[2]
    try:
        host = host_of(written)
        port = PORTS[scheme] if found[3] is None else int(found[3])
        parsed = httpx.URL(url).copy_with(host=host, fragment=None)
    except (ValueError, httpx.InvalidURL):
        raise SourceRefused(f"a URL with the host {shown(written)!r}, which is not plainly a host") from None
    if not 0 < port < 65536 or (parsed.scheme, parsed.raw_host) != (scheme, host.encode()) or parsed.userinfo:
        raise SourceRefused(f"a URL with the host {shown(written)!r} and a port or a path that is not plain")
    return Target(scheme, host, port, parsed)


def redirected(current: Target, location: str) -> Target:
    """Where a redirect leads. Raises SourceRefused, also for one from https to http."""
    try:
        following = target_of(urljoin(str(current.url), location))
    except ValueError:
        raise SourceRefused(f"{current.host} redirects to a URL that is not plainly one") from None
    if (current.scheme, following.scheme) == ("https", "http"):
        raise SourceRefused(f"{current.host} redirects from https to http, in clear")
    return following


def check(target: Target, reachable: Reachable, *, via: str | None = None) -> None:
    """Raises SourceRefused where the host is not listed, or would be asked in clear outside one's own network; ``via``
    is the host that redirected to it."""
    if not reachable.allows(target.host, target.port):
        led = "" if via is None else f", to which {via} redirects,"
        raise SourceRefused(f"the host {target.host}{led} is not listed for this source", hint=LISTED)
    if target.scheme == "http" and not reachable.is_private(target.host, target.port):
        raise SourceRefused(
            f"the host {target.host} would be asked in clear (http)",
            hint="Use https; http is for hosts that an operator listed as private.",
        )
