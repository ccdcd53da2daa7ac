"""Requests: what is sent to whom, what is followed, and how answers are read."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from spinal.errors.sources import SourceRefused, SourceUnavailable
from spinal.net.http import Http, Reachable, pieces, retry_after_s
from tests.unit.net.servers import Connection, Listener, always, http, paths, sent_headers

LOOPBACK = Reachable(("127.0.0.1",), ("127.0.0.1",))
SECRETS = {
    "Authorization": "Bearer s3cr3t", "Cookie": "s3cr3t=1", "X-Amz-Security-Token": "s3cr3t", "X-Api-Key": "s3cr3t",
    "Proxy-Authorization": "Basic s3cr3t", "PRIVATE-TOKEN": "s3cr3t",
}  # fmt: skip


def to(url: str) -> bytes:
    return http(b"moved", "302 Found", f"Location: {url}")


def test_a_request_says_who_asks_and_nothing_else() -> None:
    with Listener(always(http(b"x"))) as server, Http(LOOPBACK) as client:
        client.read(server.url)
        headers = sent_headers(server.heads[0])
    assert headers.pop("user-agent").startswith("spinal/")
    assert headers == {"host": f"127.0.0.1:{server.port}", "accept": "*/*", "accept-encoding": "identity"}


def test_credentials_go_to_their_origin_alone() -> None:
    with Listener(always(http())) as hub, Listener(always(http())) as other:
        with Http(LOOPBACK, origin=hub.url, credentials=SECRETS) as client:
            client.read(f"{hub.url}/a")
            client.read(f"{other.url}/a")
        assert sent_headers(hub.heads[0])["authorization"] == "Bearer s3cr3t"
        assert b"s3cr3t" not in other.heads[0]


def test_a_redirect_to_another_origin_drops_every_secret_for_good() -> None:
    with Listener(always(b"")) as hub, Listener(always(b"")) as cdn:
        hub._answering = paths({"/a": to(f"{cdn.url}/b"), "/c": http(b"back")})
        cdn._answering = paths({"/b": to(f"{hub.url}/c")})
        with Http(LOOPBACK, origin=hub.url, credentials={"Authorization": "Bearer s3cr3t"}) as client:
            sent = {**SECRETS, "Range": "bytes=0-9", "If-Range": '"tag"'}
            answer = client.read(f"{hub.url}/a", headers=sent, redirects=2)
        assert (answer.status, answer.body, answer.url) == (200, b"back", f"{hub.url}/c")
        assert b"s3cr3t" in hub.heads[0]
        assert b"s3cr3t" not in cdn.heads[0]
        assert b"s3cr3t" not in hub.heads[1], "another server does not make us ask with credentials"
        assert sent_headers(cdn.heads[0])["range"] == "bytes=0-9", "what part is asked for goes along"


def test_a_redirect_within_the_origin_keeps_credentials() -> None:
    with Listener(paths({"/a": to("/b?c=d"), "/b": http(b"x")})) as hub:
        with Http(LOOPBACK, origin=hub.url, credentials=SECRETS) as client:
            assert client.read(f"{hub.url}/a", redirects=1).body == b"x"
        assert [sent_headers(head)["authorization"] for head in hub.heads] == ["Bearer s3cr3t"] * 2
        assert hub.connections == 1, "the redirect's own answer was read, and its connection used again"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed_only_when_asked(status: str) -> None:
    with Listener(paths({"/a": http(b"", status, "Location: /b"), "/b": http(b"x")})) as hub, Http(LOOPBACK) as client:
        answer = client.read(f"{hub.url}/a")
        assert (answer.status, answer.headers["location"]) == (int(status[:3]), "/b")
        assert client.read(f"{hub.url}/a", redirects=1).body == b"x"
        assert client.read(f"{hub.url}/a", redirects=1, method="HEAD").status == 200


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "300 Choices", "304 Not Modified", "401 No"])
def test_a_location_of_another_status_is_not_followed(status: str) -> None:
    with Listener(always(http(b"", status, "Location: /b"))) as hub, Http(LOOPBACK) as client:
        assert client.read(f"{hub.url}/a", redirects=3).status == int(status[:3])
        assert len(hub.heads) == 1


def test_redirects_end() -> None:
    with Listener(paths({"/a": to("/a")})) as hub, Http(LOOPBACK) as client:
        with pytest.raises(SourceUnavailable, match="more than 3 times"):
            client.read(f"{hub.url}/a", redirects=3)
        assert len(hub.heads) == 4


def test_a_redirect_leads_to_listed_hosts_alone() -> None:
    with Listener(always(http(b"inside"))) as inside, Listener(always(to(f"{inside.url}/x?sig=s3cr3t"))) as hub:
        own = f"127.0.0.1:{hub.port}"
        with Http(Reachable((own,), (own,))) as client, pytest.raises(SourceRefused) as caught:
            client.read(hub.url, redirects=3)
        assert "redirects" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        inside.assert_untouched()


def test_a_redirect_with_an_endless_body_is_followed_all_the_same() -> None:
    def answering(head: bytes, connection: Connection) -> None:
        if b"GET /b" in head:
            connection.send(http(b"x"))
        else:
            connection.send(b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 999999999\r\n\r\n")
            connection.drip(b"y" * 10_000)

    with Listener(answering) as hub, Http(LOOPBACK) as client:
        assert client.read(f"{hub.url}/a", redirects=1).body == b"x"


def test_nothing_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password s3cr3t\n")
    with Listener(always(http(b"proxied"))) as proxy, Listener(always(http(b"asked"))) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("HF_TOKEN", "s3cr3t")
        with Http(LOOPBACK) as client:
            assert client.read(server.url).body == b"asked"
        assert "authorization" not in sent_headers(server.heads[0])
        proxy.assert_untouched()


def test_cookies_are_not_kept() -> None:
    with Listener(paths({"/a": http(b"", "302 Found", "Location: /b", "Set-Cookie: a=b; Path=/")})) as server:
        with Http(LOOPBACK) as client:
            client.read(f"{server.url}/a", redirects=1)
            client.read(f"{server.url}/a")
        assert not any("cookie" in sent_headers(head) for head in server.heads)


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 416, 429, 500, 503])
def test_a_status_is_an_answer(status: int) -> None:
    with Listener(always(http(b"", f"{status} As It Is", "Retry-After: 7"))) as server, Http(LOOPBACK) as client:
        answer = client.read(server.url)
        assert (answer.status, retry_after_s(answer.headers)) == (status, 7.0)


def test_a_body_comes_in_pieces_as_it_was_sent() -> None:
    body = bytes(range(256)) * 8192
    with Listener(always(http(body))) as server, Http(LOOPBACK) as client:
        with client.stream(server.url) as response:
            sizes = [len(piece) for piece in pieces(response)]
        assert sum(sizes) == len(body)
        assert max(sizes) <= 1 << 20
        with client.stream(server.url) as response:
            first = next(pieces(response))
            assert first == body[: len(first)], "what is not read is not waited for"
        assert client.read(server.url, most_bytes=len(body)).body == body


def test_a_longer_answer_than_asked_for_is_not_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"
    lying = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 1000
    for answer in (http(b"x" * 1000), chunked, lying):
        longer = pytest.raises(SourceUnavailable, match="longer than 999 bytes")
        with Listener(always(answer)) as server, Http(LOOPBACK) as client, longer:
            client.read(server.url, most_bytes=999)


def test_an_endless_answer_ends() -> None:
    def answering(head: bytes, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            connection.send(b"fff\r\n" + b"x" * 0xFFF + b"\r\n")

    with Listener(answering) as server, Http(LOOPBACK) as client, pytest.raises(SourceUnavailable):
        client.read(server.url, most_bytes=100_000)


def test_an_encoding_that_was_not_asked_for_is_refused() -> None:
    answer = http(b"\x1f\x8b", "200 OK", "Content-Encoding: gzip")
    with Listener(always(answer)) as server, Http(LOOPBACK) as client:
        with pytest.raises(SourceUnavailable, match="encoded \\(gzip\\)"):
            client.read(server.url)
        asked = client.read(server.url, headers={"Accept-Encoding": "br;q=0.5, gzip"})
        assert asked.body == b"\x1f\x8b", "as it came: nothing is decoded"
        assert client.read(server.url, method="HEAD").status == 200


def test_threads_share_a_client() -> None:
    def echo(head: bytes, connection: Connection) -> None:
        connection.send(http(head.split(b" ")[1]))

    def ask(name: int) -> list[bytes]:
        return [client.read(f"{server.url}/{name}-{turn}").body for turn in range(20)]

    with Listener(echo) as server, Http(LOOPBACK) as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert answers == [[f"/{name}-{turn}".encode() for turn in range(20)] for name in range(8)]


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0.0), ("120", 120.0), ("3601", 3600.0), ("9" * 60, 3600.0), ("9" * 5000, None), ("-1", None), ("1.5", None),
     ("soon", None), ("", None), ("١٢", None), ("1, 2", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
     ("Wed, 21 Oct 9999 07:28:00 GMT", 3600.0), ("Wed, 99 Oct 2015 07:28:00 GMT", None),
     ("Wed, 21 Oct 2015 07:28:00 -0000", 0.0), ("0x10", None), ("Wed", None)],
)  # fmt: skip
def test_how_long_to_wait_is_read_or_left(said: str, seconds: float | None) -> None:
    assert retry_after_s(httpx.Headers([(b"retry-after", said.encode())])) == seconds


def test_how_long_to_wait_may_be_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after_s(httpx.Headers({"Retry-After": when})) == pytest.approx(100, abs=20)
    assert retry_after_s(httpx.Headers()) is None


def test_a_past_deadline_asks_nobody() -> None:
    with Listener(always(http(b"x"))) as server, Http(LOOPBACK) as client:
        with pytest.raises(SourceUnavailable):
            client.read(server.url, deadline=time.monotonic() - 1)
        with pytest.raises(SourceUnavailable):
            client.read(server.url, deadline=0.0)
        server.assert_untouched()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "CONNECT", "get", "GET /x"])
def test_only_reading_is_asked(method: str) -> None:
    with Http(LOOPBACK) as client, pytest.raises(ValueError, match="GET and HEAD"):
        client.read("http://127.0.0.1:1/", method=method)
