"""Whatever a server does, an exchange ends in time with one clean line that holds no secret."""

import socket
import time
import traceback
from collections.abc import Callable

import pytest

from spinal.errors.sources import SourceUnavailable
from spinal.net.http import Http, Reachable, pieces
from tests.unit.net.servers import Answering, Connection, Listener, always, http

LOOPBACK = Reachable(("127.0.0.1",), ("127.0.0.1",))
SIGNED = "/file?X-Amz-Signature=s3cr3t"
BOUND_S = 10.0
"""Far above what these exchanges are given (well below a second), far below what they would take unbounded."""
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


def hang(head: bytes, connection: Connection) -> None:
    connection.hang()


def close(head: bytes, connection: Connection) -> None:
    connection.close()


def drip_head(head: bytes, connection: Connection) -> None:
    connection.drip(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10_000)


def endless_continue(head: bytes, connection: Connection) -> None:
    while True:
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)


def hang_in_body(head: bytes, connection: Connection) -> None:
    connection.send(HEAD + b"x")
    connection.hang()


def cut_in_body(head: bytes, connection: Connection) -> None:
    connection.send(HEAD + b"x")
    connection.close()


def cut_in_chunk(head: bytes, connection: Connection) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
    connection.close()


FAILING: dict[str, tuple[Answering, str]] = {
    "says nothing": (hang, "too long"),
    "closes": (close, "no answer, or one that is not HTTP"),
    "speaks something else": (always(b"SSH-2.0-OpenSSH s3cr3t\r\n\r\n"), "no answer, or one that is not HTTP"),
    "switches protocols": (always(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), "not HTTP"),
    "sends endless headers": (always(b"HTTP/1.1 200 OK\r\n" + b"X-Y: zzzzzzzzzz\r\n" * 100_000), "not HTTP"),
    "drips its head": (drip_head, "took too long"),
    "says continue for ever": (endless_continue, "took too long"),
    "stalls": (hang_in_body, "too long"),
    "breaks off": (cut_in_body, "breaks off"),
    "breaks off in a chunk": (cut_in_chunk, "breaks off"),
    "sends no chunks": (always(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n"), "breaks off"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAILING)
def test_a_server_that_fails_is_told_in_one_line_without_secrets(kind: str) -> None:
    answering, says = FAILING[kind]
    began = time.monotonic()
    with Listener(answering) as server:
        credentials = {"Authorization": "Bearer s3cr3t"}
        # Only for servers that would be waited for: a busy machine answers late, too.
        wait = 0.2 if says.endswith("too long") else BOUND_S
        client = Http(LOOPBACK, origin=server.url, credentials=credentials, connect_s=wait, read_s=wait)
        with client, pytest.raises(SourceUnavailable) as caught:
            client.read(server.url + SIGNED)
    told = str(caught.value)
    assert told.startswith("127.0.0.1: ")
    assert says in told
    assert "s3cr3t" not in f"{told} {caught.value.hint}"
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    assert time.monotonic() - began < BOUND_S


def test_a_deadline_ends_a_wait_that_would_be_longer() -> None:
    for answering in (hang, hang_in_body):
        began = time.monotonic()
        late = pytest.raises(SourceUnavailable, match="took too long")
        with Listener(answering) as server, Http(LOOPBACK, connect_s=60, read_s=60) as client, late:
            client.read(server.url, deadline=began + 0.3)
        assert time.monotonic() - began < BOUND_S


def test_a_port_where_nobody_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    with Http(LOOPBACK) as client, pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1: connection refused"):
        client.read(f"http://127.0.0.1:{port}{SIGNED}")


Asking = Callable[[Http, str, float], object]


def _streamed(client: Http, url: str, ends: float) -> object:
    with client.stream(url, deadline=ends) as response:
        return list(pieces(response))


def _streamed_for_less(client: Http, url: str, ends: float) -> object:
    with client.stream(url) as response:
        return list(pieces(response, ends))


@pytest.mark.parametrize(
    "asking",
    [lambda client, url, ends: client.read(url, deadline=ends), _streamed, _streamed_for_less],
    ids=["read", "stream", "pieces"],
)
def test_a_deadline_ends_a_body_that_drips(asking: Asking) -> None:
    def answering(head: bytes, connection: Connection) -> None:
        connection.send(HEAD)
        connection.drip(b"x" * 1000, every=0.05)

    began = time.monotonic()
    late = pytest.raises(SourceUnavailable, match="took too long")
    with Listener(answering) as server, Http(LOOPBACK) as client, late:
        asking(client, server.url, began + 0.5)
    assert 0.4 < time.monotonic() - began < BOUND_S


def test_a_drip_is_no_stall() -> None:
    """Without a deadline, a body is waited for as long as pieces come: longer than a single wait in all."""

    def answering(head: bytes, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        connection.drip(b"x" * 30, every=0.05)

    with Listener(answering) as server, Http(LOOPBACK, read_s=1.0) as client, client.stream(server.url) as response:
        assert b"".join(pieces(response)) == b"x" * 30


def test_what_failed_leaves_the_client_usable() -> None:
    def answering(head: bytes, connection: Connection) -> None:
        (cut_in_body if b"/cut" in head else always(http(b"well")))(head, connection)

    with Listener(answering) as server, Http(LOOPBACK) as client:
        for _ in range(100):  # more than there are connections
            with pytest.raises(SourceUnavailable):
                client.read(f"{server.url}/cut")
            with client.stream(f"{server.url}/well"):
                pass  # left unread
        assert client.read(f"{server.url}/well").body == b"well"


@pytest.mark.parametrize(
    "value",
    ["s3cr3t\n", "s3cr3t\r\nHost: x", "s3cr3t\x00", "s3cr3té", " s3cr3t", "s3cr3t ", "\x1bs3cr3t"],
)
def test_a_credential_that_http_does_not_allow_is_refused_when_made(value: str) -> None:
    for name, said in (("Authorization", value), ("Bad Name", "s3cr3t"), ("Bad:", "s3cr3t"), ("", "s3cr3t")):
        with pytest.raises(ValueError, match="does not allow") as caught:
            Http(LOOPBACK, origin="http://127.0.0.1:1", credentials={name: said})
        assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_credentials_need_an_origin() -> None:
    with pytest.raises(ValueError, match="origin"):
        Http(LOOPBACK, credentials={"Authorization": "x"})


@pytest.mark.parametrize(
    "origin", ["https://h.example/", "https://h.example/path", "https://h.example?", "https://h.example#"]
)
def test_an_origin_is_no_url(origin: str) -> None:
    with pytest.raises(ValueError, match="without a path"):
        Http(LOOPBACK, origin=origin)


def test_nothing_that_prints_a_client_or_an_answer_prints_secrets() -> None:
    with Listener(always(http(b"s3cr3t", "200 OK", "X-Secret: s3cr3t"))) as server:
        client = Http(LOOPBACK, origin=server.url, credentials={"Authorization": "Bearer s3cr3t"})
        with client:
            answer = client.read(server.url + SIGNED)
    assert "s3cr3t" not in repr(client) + repr(answer)
