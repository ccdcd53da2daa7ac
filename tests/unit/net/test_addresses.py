"""Only addresses that anybody may have are asked without being listed; only hosts that are plainly hosts are listed."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.net.addresses import Address, Reachable, embedded, is_public

PUBLIC = ["1.1.1.1", "93.184.216.34", "151.101.1.69", "172.15.255.255", "172.32.0.0", "100.63.255.255", "100.128.0.0",
          "2606:4700::1111", "2a00:1450:4001::200e", "2400:cb00::1"]  # fmt: skip
FORBIDDEN = {
    "unspecified": ["0.0.0.0", "::"],
    "this network": ["0.1.2.3"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255", "100.100.100.200"],
    "link-local, metadata of clouds": ["169.254.169.254", "169.254.170.2", "fe80::1", "fe80::a9fe:a9fe"],
    "unique local": ["fc00::1", "fd00:ec2::254", "fd20:ce::254"],
    "site-local": ["fec0::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["255.255.255.255", "240.0.0.1", "4000::1", "8000::1", "5f00::1", "100::1"],
    "protocols": ["192.0.0.192", "192.88.99.1", "192.31.196.1", "192.175.48.1", "168.63.129.16", "2001:1::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "documents": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "mapped and compatible": ["::ffff:127.0.0.1", "::ffff:1.1.1.1", "::127.0.0.1", "::1.1.1.1", "::ffff:0:127.0.0.1"],
    "translated": ["64:ff9b::7f00:1", "64:ff9b::101:101", "64:ff9b:1::1", "64:ff9b:1:7f00:0:100::"],
    "tunnels": ["2002:7f00:1::1", "2002:101:101::1", "2001:0:101:101::1", "2606:4700::5efe:127.0.0.1",
                "2606:4700::200:5efe:10.0.0.1"],
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", [each for several in FORBIDDEN.values() for each in several])
def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


EMBEDDINGS = {
    "mapped": lambda low: (0xFFFF << 32) | low,
    "compatible": lambda low: low,
    "translated": lambda low: (0x64FF9B << 96) | low,
    "translated locally": lambda low: (0x64FF9B0001 << 80) | low,
    "translated locally, 48 bits": lambda low: (0x64FF9B0001 << 80) | (low >> 16) << 64 | (low & 0xFFFF) << 40,
    "6to4": lambda low: (0x2002 << 112) | low << 80 | 1,
    "Teredo, of a client": lambda low: (0x20010000 << 96) | (0x01010101 << 64) | (low ^ 0xFFFFFFFF),
    "Teredo, of a server": lambda low: (0x20010000 << 96) | low << 64,
    "ISATAP": lambda low: (0x26064700 << 96) | (0x5EFE << 32) | low,
}


@pytest.mark.parametrize("kind", EMBEDDINGS)
@given(low=st.sampled_from(["127.0.0.1", "169.254.169.254", "10.0.0.1"]) | st.ip_addresses(v=4).map(str))
def test_an_embedded_address_is_seen(kind: str, low: str) -> None:
    address = IPv6Address(EMBEDDINGS[kind](int(IPv4Address(low))))
    assert address.is_loopback or not int(address) or IPv4Address(low) in embedded(address)
    assert not is_public(address) or is_public(IPv4Address(low))


@given(st.ip_addresses())
def test_no_address_with_a_special_meaning_is_public(address: Address) -> None:
    special = (
        address.is_private, address.is_loopback, address.is_link_local, address.is_multicast, address.is_reserved,
        address.is_unspecified,
    )  # fmt: skip
    assert not (is_public(address) and any(special))


@pytest.mark.parametrize(
    ("hosts", "host", "port", "allowed"),
    [
        (("huggingface.co",), "huggingface.co", 443, True),
        (("huggingface.co",), "huggingface.co", 8443, True),
        (("HuggingFace.co",), "huggingface.co", 443, True),
        (("huggingface.co",), "cdn.huggingface.co", 443, False),
        (("huggingface.co",), "xhuggingface.co", 443, False),
        (("huggingface.co",), "huggingface.co.evil.org", 443, False),
        (("*.hf.co",), "cdn.hf.co", 443, True),
        (("*.hf.co",), "a.b.c.hf.co", 443, True),
        (("*.hf.co",), "hf.co", 443, False),
        (("*.hf.co",), "evilhf.co", 443, False),
        (("*.hf.co:443",), "cdn.hf.co", 444, False),
        (("127.0.0.1:8080",), "127.0.0.1", 8080, True),
        (("127.0.0.1:8080",), "127.0.0.1", 8081, False),
        (("[::1]:8080", "[::2]"), "::1", 8080, True),
        (("[::1]:8080", "[::2]"), "::1", 80, False),
        (("[0:0:0:0:0:0:0:1]",), "::1", 80, True),
        ((), "huggingface.co", 443, False),
    ],
)
def test_a_host_is_asked_only_where_a_pattern_covers_it(
    hosts: tuple[str, ...], host: str, port: int, allowed: bool
) -> None:
    assert Reachable(hosts).allows(host, port) is allowed


@pytest.mark.parametrize(
    "entry",
    ["", "*", "*.", "*.*", "*.*.hf.co", "a.*.co", "hf*.co", ".hf.co", "hf.co.", "hf..co", "-a.co", "a" * 64, "a." * 130,
     "https://hf.co", "hf.co/path", "user@hf.co", "hf.co:", "hf.co:0", "hf.co:65536", "hf.co:x", "127.1", "0x7f000001",
     "2130706433", "0177.0.0.1", "1.2.3.4.5", "127.0.0.1.", "*.127.0.0.1", "*.0.0.1", "::1", "[::1", "[127.0.0.1]",
     "[fe80::1%eth0]", "ｈf.co", "hf。co", "bücher.example", "hf.co\n", "hf .co", "hf.co\x00", "%68f.co"],
)  # fmt: skip
def test_what_is_no_host_is_not_listed(entry: str) -> None:
    for made in (lambda: Reachable((entry,)), lambda: Reachable(("hf.co",), private=(entry,))):
        with pytest.raises(ValueError, match=r"is no (host|network)") as caught:
            made()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.0/33", "/8", "host/8", "10.0.0.0/", "::/129", "10/8\n"])
def test_what_is_no_network_is_not_listed(entry: str) -> None:
    with pytest.raises(ValueError, match="is no network") as caught:
        Reachable(("hf.co",), private=(entry,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"])
def test_networks_are_private_alone(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        Reachable((entry,))


OWN = ["127.0.0.1", "10.1.2.3", "172.20.0.2", "192.168.0.9", "100.64.0.1", "::1", "fd12::1"]
NOBODYS = ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "::ffff:127.0.0.1",
           "64:ff9b::a00:1", "2002:a00:1::1", "168.63.129.16"]  # fmt: skip


@pytest.mark.parametrize("address", OWN)
def test_a_private_host_may_live_in_ones_own_network(address: str) -> None:
    listed = Reachable(("minio.corp", "other.corp"), private=("minio.corp",))
    assert listed.admits(ip_address(address), "minio.corp", 9000)
    assert listed.admits(ip_address(address), "minio.corp", 9000, clear=True)
    assert not listed.admits(ip_address(address), "other.corp", 9000)


@pytest.mark.parametrize("address", NOBODYS)
def test_a_private_name_does_not_lead_where_no_server_of_ones_own_lives(address: str) -> None:
    """Whoever answers for a name would else reach the metadata of the cloud."""
    assert not Reachable(("minio.corp",), private=("minio.corp",)).admits(ip_address(address), "minio.corp", 80)


def test_in_clear_only_ones_own_network_is_asked() -> None:
    listed = Reachable(("minio.corp",), private=("minio.corp", "93.184.216.0/24"))
    assert not listed.admits(ip_address("1.1.1.1"), "minio.corp", 80, clear=True)
    assert listed.admits(ip_address("1.1.1.1"), "minio.corp", 443)
    assert listed.admits(ip_address("93.184.216.34"), "minio.corp", 80, clear=True), "a company's own public addresses"


def test_a_port_of_a_private_host_is_held() -> None:
    listed = Reachable(("127.0.0.1",), private=("127.0.0.1:9000",))
    assert listed.admits(ip_address("127.0.0.1"), "127.0.0.1", 9000)
    assert not listed.admits(ip_address("127.0.0.1"), "127.0.0.1", 6379)


@pytest.mark.parametrize(
    ("network", "address", "admitted"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.2.3", False),
        ("10.1.0.0/16", "::ffff:10.1.2.3", False),
        ("64:ff9b::/96", "64:ff9b::101:101", True),
        ("64:ff9b::/96", "64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::/96", "64:ff9b::7f00:1", False),
        ("::ffff:0:0/96", "::ffff:127.0.0.1", False),
    ],
)
def test_a_listed_network_opens_itself_and_nothing_behind_it(network: str, address: str, admitted: bool) -> None:
    assert Reachable(("models.corp",), private=(network,)).admits(ip_address(address), "models.corp", 443) is admitted
