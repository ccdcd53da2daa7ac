"""Which hosts may be asked, and at which addresses.

A name is no address: whoever holds a name decides where it leads, and may decide anew between two looks. So both are
judged: the host as a URL writes it, and each address that a connection is made to.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
LONGEST_NAME = 253
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A name that ends in such a label is read as an IPv4 address by resolvers, in ways that differ between them."""

# The registries of special-purpose addresses of IANA, and not `is_global` alone: its answers differ between versions of
# Python, and it holds addresses for global that end in a tunnel.
SPECIAL = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # the host's own services, inside Azure
        "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
    )
)  # fmt: skip
GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that is assigned of IPv6; special ones lie inside it and outside."""
OWN = tuple(
    ip_network(network)
    for network in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "::1/128", "fc00::/7",
    )
)  # fmt: skip
"""Where servers of one's own network live. Link-local is not among them: there live the metadata of clouds."""


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may have this address: none of a private network, of this host, of a tunnel, of
    many hosts, and none that is kept for documents or for later."""
    if address.is_multicast or not address.is_global or any(address in network for network in SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return True
    return address in GLOBAL_UNICAST and all(is_public(each) for each in embedded(address))


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses to which packets for an IPv6 address may be carried by a translator or a tunnel."""
    if isinstance(address, IPv4Address):
        return ()
    number = int(address)
    low = IPv4Address(number & 0xFFFFFFFF)
    if address in IPv6Network("::ffff:0:0/96") or address in IPv6Network("64:ff9b::/96"):
        return (low,)
    if address in IPv6Network("::/96") or address in IPv6Network("::ffff:0:0:0/96"):
        return (low,)
    if address in IPv6Network("64:ff9b:1::/48"):
        # A prefix of 48 bits has the address around bits 64 to 71 (RFC 6052), one of 96 bits at the end.
        around = ((number >> 64) & 0xFFFF) << 16 | (number >> 40) & 0xFFFF
        return (low, IPv4Address(around))
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    if (number >> 32) & 0xFDFFFFFF == 0x00005EFE:  # ISATAP
        return (low,)
    return ()


def host_of(text: str) -> str:
    """A host as it is compared: a name in lower case, an IPv4 address, an IPv6 address without brackets.

    Raises ValueError for whatever else a resolver would take for a host: ``127.1``, ``0x7f000001``, names with an empty
    label or a dot at the end, letters that are not ASCII."""
    if text.startswith("[") and text.endswith("]"):
        if "%" in text:
            raise ValueError("an address with a zone")
        return str(IPv6Address(text[1:-1]))
    name = text.lower()
    if not text.isascii() or len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise ValueError("no host name")
    if NUMBER.fullmatch(name.rpartition(".")[2]):
        return str(IPv4Address(name))
    return name


@dataclass(frozen=True)
class Pattern:
    """One host, or all hosts below a name."""

    host: str
    port: int | None
    below: bool

    def covers(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        return host.endswith(f".{self.host}") if self.below else host == self.host


@dataclass(frozen=True)
class Reachable:
    """The hosts that may be asked. One without a port may be asked at any.

    Raises ValueError for what is neither a host nor, in ``private``, a network.

    >>> hub = Reachable(("huggingface.co", "*.hf.co"))
    >>> hub.allows("cdn-lfs.hf.co", 443), hub.allows("hf.co", 443), hub.allows("evil-hf.co", 443)
    (True, False, False)
    """

    hosts: tuple[str, ...]
    """``huggingface.co``; ``*.hf.co`` (any depth below, not the bare suffix); ``127.0.0.1:8080``; ``[::1]``."""
    private: tuple[str, ...] = ()
    """Hosts of ``hosts`` that live in one's own network, on loopback or behind carrier-grade NAT, and networks
    (``10.1.0.0/16``) where any of ``hosts`` may live. They alone are asked in clear, and only at such addresses."""
    everywhere: bool = False
    """Whether every host may be asked, beside ``hosts``: at a public address, where it is not listed as private."""
    _hosts: tuple[Pattern, ...] = field(init=False, repr=False, compare=False)
    _private: tuple[Pattern, ...] = field(init=False, repr=False, compare=False)
    _networks: tuple[Network, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        networks = tuple(entry for entry in self.private if "/" in entry)
        object.__setattr__(self, "_hosts", tuple(map(_pattern, self.hosts)))
        object.__setattr__(self, "_private", tuple(_pattern(entry) for entry in self.private if "/" not in entry))
        object.__setattr__(self, "_networks", tuple(map(_network, networks)))

    def allows(self, host: str, port: int) -> bool:
        """Whether a host, written as :func:`host_of` does, may be asked at all."""
        return self.everywhere or any(pattern.covers(host, port) for pattern in self._hosts)

    def is_private(self, host: str, port: int) -> bool:
        """Whether a host is said to live in one's own network: listed itself, or an address of a listed network."""
        literal = literal_of(host)
        return any(pattern.covers(host, port) for pattern in self._private) or (
            literal is not None and self._inside(literal)
        )

    def admits(self, address: Address, host: str, port: int, *, clear: bool = False) -> bool:
        """Whether a connection for ``host`` may be made to ``address``; ``clear``: without TLS."""
        if any(address in network for network in self._networks):
            return self._inside(address)
        if is_public(address):
            return not clear
        own = address == literal_of(host) or any(address in network for network in OWN)
        return own and self.is_private(host, port)

    def _inside(self, address: Address) -> bool:
        """In a listed network. What it carries to another address has to be allowed there as well: listing the prefix
        of a translator does not open the translated addresses of this host."""
        if not any(address in network for network in self._networks):
            return False
        return all(is_public(each) or self._inside(each) for each in embedded(address))


def literal_of(host: str) -> Address | None:
    """The address that a host is, where it is no name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def _pattern(entry: str) -> Pattern:
    host, port = entry, None
    if found := re.fullmatch(r"(.+?):([0-9]{1,5})", entry, re.DOTALL):
        host, port = found[1], int(found[2])
    below = host.startswith("*.")
    try:
        if port is not None and not 0 < port < 65536:
            raise ValueError("no port")
        name = host_of(host.removeprefix("*."))
        if below and literal_of(name) is not None:
            raise ValueError("nothing is below an address")
    except ValueError:
        raise ValueError(f"{entry[:100]!r} is no host: example.org, *.example.org, 127.0.0.1, [::1], each with or "
                         "without :port") from None  # fmt: skip
    return Pattern(name, port, below)


def _network(entry: str) -> Network:
    try:
        return ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry[:100]!r} is no network: 10.1.0.0/16, fd00::/8, without bits of a host") from None
