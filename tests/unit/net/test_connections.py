"""A connection is made to the very address that was judged, whatever a name says a moment later."""

import socket
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net import connections, resolver
from spinal.net.addresses import Address
from spinal.net.http import Http, Reachable
from tests.support.waiting import until
from tests.unit.net.servers import Connection, Listener, always, http

PUBLIC = "93.184.216.34"
"""Judged in these tests, never connected to."""
NAME = "models.example"

Names = dict[str, list[list[str]]]
"""What each look at a name gives, the last one from then on."""


class NoNetwork:
    """Stands for what lies beyond loopback: writes down what would be connected to, and does not."""

    def __init__(self, connect: Callable[[Address, int, float], socket.socket]) -> None:
        self._connect, self.tried = connect, list[str]()

    def __call__(self, address: Address, port: int, timeout: float) -> socket.socket:
        self.tried.append(str(address))
        if not address.is_loopback:
            raise ConnectionRefusedError
        return self._connect(address, port, timeout)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> NoNetwork:
    double = NoNetwork(connections._connect)
    monkeypatch.setattr(connections, "_connect", double)
    return double


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    table: Names = {}

    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
        if host == "127.0.0.1":  # of the tests themselves: the client looks no address up
            return real(host, port, *args, **more)
        looks = table[host]
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return table


def public(listener: Listener) -> str:
    return f"https://{NAME}:{listener.port}/"


def test_a_name_that_leads_elsewhere_at_the_second_look_is_not_followed(network: NoNetwork, names: Names) -> None:
    names[NAME] = [[PUBLIC], ["127.0.0.1"]]
    with Listener(always(http(b"inside"))) as inside, Http(Reachable((NAME,))) as client:
        with pytest.raises(SourceUnavailable):
            client.read(public(inside))
        assert network.tried == [PUBLIC], "one look, and a connection to what it gave"
        with pytest.raises(SourceRefused, match="not public"):
            client.read(public(inside))
        assert network.tried == [PUBLIC]
        inside.assert_untouched()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0"]
)
def test_a_listed_name_does_not_lead_to_a_forbidden_address(address: str, network: NoNetwork, names: Names) -> None:
    names[NAME] = [[address]]
    with Listener(always(http(b"inside"))) as inside, Http(Reachable((NAME,))) as client:
        with pytest.raises(SourceRefused) as caught:
            client.read(public(inside))
        assert NAME in str(caught.value)
        assert address not in str(caught.value), "what a name means inside is not told"
        assert network.tried == []
        inside.assert_untouched()


@pytest.mark.parametrize("others", [["169.254.169.254"], ["::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"]])
def test_of_several_addresses_the_allowed_ones_alone_are_tried(
    others: list[str], network: NoNetwork, names: Names
) -> None:
    names[NAME] = [[*others, "127.0.0.1", *others]]
    with Listener(always(http(b"inside"))) as inside, Http(Reachable((NAME,), (NAME,))) as client:
        assert client.read(f"http://{NAME}:{inside.port}/").body == b"inside"
    assert network.tried == ["127.0.0.1"]


def test_an_address_that_does_not_answer_leaves_the_next_one_its_time(network: NoNetwork, names: Names) -> None:
    names[NAME] = [["10.0.0.1", "127.0.0.1"]]
    with Listener(always(http(b"inside"))) as inside, Http(Reachable((NAME,), (NAME,))) as client:
        assert client.read(f"http://{NAME}:{inside.port}/").body == b"inside"
    assert network.tried == ["10.0.0.1", "127.0.0.1"]


def test_a_thousand_addresses_are_not_all_tried(network: NoNetwork, names: Names) -> None:
    names[NAME] = [[f"10.0.{high}.{low}" for high in range(10) for low in range(100)]]
    with Http(Reachable((NAME,), (NAME,))) as client, pytest.raises(SourceUnavailable):
        client.read(f"http://{NAME}/")
    assert len(network.tried) == connections.MOST_ADDRESSES


def test_in_clear_a_private_name_does_not_lead_outside(network: NoNetwork, names: Names) -> None:
    names[NAME] = [[PUBLIC]]
    with Http(Reachable((NAME,), (NAME,))) as client, pytest.raises(SourceRefused, match="in clear"):
        client.read(f"http://{NAME}/")
    assert network.tried == []


def test_whoever_else_is_at_the_other_end_gets_no_byte(monkeypatch: pytest.MonkeyPatch, names: Names) -> None:
    """The kernel was told one address, and another one answered."""
    names[NAME] = [[PUBLIC]]
    with Listener(always(http(b"inside"))) as inside, Http(Reachable((NAME,))) as client:
        connect = socket.socket.connect

        def elsewhere(self: socket.socket, address: Any) -> None:
            connect(self, ("127.0.0.1", inside.port))

        with monkeypatch.context() as patched:
            patched.setattr(socket.socket, "connect", elsewhere)
            with pytest.raises(SourceRefused, match="not public"):
                client.read(public(inside))
        connect_again = socket.create_connection(("127.0.0.1", inside.port), timeout=10)
        with connect_again:
            connect_again.sendall(b"last\r\n\r\n")
            connect_again.recv(1)
        assert inside.heads == [b"last\r\n\r\n"]
        assert inside.connections == 2


def test_an_unknown_name_is_away_and_not_refused(network: NoNetwork, names: Names) -> None:
    """Resolvers fail for a while; what was to be fetched is tried again."""
    names[NAME] = [[]]
    with Http(Reachable((NAME,))) as client, pytest.raises(SourceUnavailable, match="no address is known"):
        client.read(f"https://{NAME}/")


def test_an_idle_connection_is_used_again_and_one_that_is_gone_is_made_anew() -> None:
    closed: list[bytes] = []

    def answering(head: bytes, connection: Connection) -> None:
        if b"/closed" in head and not closed:
            closed.append(head)
            connection.close()
        else:
            connection.send(http(b"x"))

    with Listener(answering) as server, Http(Reachable(("127.0.0.1",), ("127.0.0.1",))) as client:
        for path in ("/1", "/2", "/closed", "/4"):
            assert client.read(server.url + path).status == 200
        assert (server.connections, len(server.heads)) == (2, 5)


def test_a_new_connection_that_fails_is_not_made_again() -> None:
    with Listener(lambda head, connection: connection.close()) as server:
        with Http(Reachable(("127.0.0.1",), ("127.0.0.1",))) as client, pytest.raises(SourceUnavailable):
            client.read(server.url)
        assert len(server.heads) == 1


class Hanging:
    """A resolver that never answers, until the test lets it."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked = 0

    def __call__(self, *args: Any, **more: Any) -> list[Any]:
        self.asked += 1
        self.free.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "later")


def test_a_resolver_that_hangs_holds_nobody_and_gathers_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging()
    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    monkeypatch.setattr(resolver, "_lookups", threading.BoundedSemaphore(2))
    began = time.monotonic()
    try:
        with Http(Reachable((NAME,)), connect_s=0.1) as client:
            for _ in range(5):
                with pytest.raises(SourceUnavailable, match="no connection in time"):
                    client.read(f"https://{NAME}/")
        until(lambda: hanging.asked == 2, "the two lookups that were begun")
        assert time.monotonic() - began < 10
    finally:
        hanging.free.set()


def test_a_lookup_gives_its_place_back(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names[NAME] = [[PUBLIC], [], [PUBLIC, PUBLIC, "not an address"], [PUBLIC, PUBLIC]]
    monkeypatch.setattr(resolver, "_lookups", threading.BoundedSemaphore(1))
    ends = time.monotonic() + 30
    assert resolver.addresses_of(NAME, 443, ends) == [ip_address(PUBLIC)]
    for _ in range(2):
        with pytest.raises(OSError, match=r"not known|ValueError"):
            resolver.addresses_of(NAME, 443, ends)
    assert resolver.addresses_of(NAME, 443, ends) == [ip_address(PUBLIC)]


def test_an_address_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Hanging())
    assert resolver.addresses_of("::1", 443, time.monotonic() + 1) == [ip_address("::1")]
