"""What of all that comes back is an answer of the service, and what is read of an address and a key."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from spinal import connection
from spinal.client import Client
from spinal.errors import AnswerNotUnderstood, AuditStillRunning, ServiceUnreachable, SpinalError, UsageError

LOGIN = httpx.Response(200, html="<!doctype html><html><title>Log in</title>")
FOREIGN = {
    "a login page": LOGIN,
    "a redirect to a login": httpx.Response(302, headers={"Location": "https://login.example/?token=hush"}),
    "nothing": httpx.Response(204),
    "nothing in JSON": httpx.Response(200, headers={"Content-Type": "application/json"}),
    "JSON of another type": httpx.Response(200, json=[1]),
    "JSON of another shape": httpx.Response(200, json={"status": "ok"}),
    "JSON called text": httpx.Response(200, text='{"id": "1"}'),
    "JSON cut off": httpx.Response(200, content=b'{"id": "1', headers={"Content-Type": "application/json"}),
    "JSON nested for ever": httpx.Response(200, content=b"[" * 99999, headers={"Content-Type": "application/json"}),
    "a body that cannot be unpacked": httpx.Response(
        200, stream=httpx.ByteStream(b"xx"), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    ),
    "a page of a web server": httpx.Response(404, html="<html>no such page"),
    "an error of another service": httpx.Response(500, json={"error": "x"}),
}
CALLS: dict[str, Callable[[Client], Any]] = {
    "submit": lambda client: client.submit("local:x"),
    "audit": lambda client: client.audit("1"),
    "wait": lambda client: client.wait("1", timeout=1.0),
    "cancel": lambda client: client.cancel("1"),
    "link": lambda client: client.link("1"),
    "audits": lambda client: list(client.audits()),
    "audits_page": lambda client: client.audits_page(),
    "report": lambda client: client.report("1", "html"),
    "report in JSON": lambda client: client.report("1"),
    "trace": lambda client: client.trace("d"),
    "diff": lambda client: client.diff("a", "b"),
    "models": lambda client: list(client.models()),
    "register": lambda client: client.register_model("a", "local:x"),
    "model": lambda client: client.model("a/b"),
    "update a model": lambda client: client.update_model("a/b", description="d"),
    "register a version": lambda client: client.register_version("a/b", "2", "local:x"),
    "versions": lambda client: list(client.versions("a/b")),
    "version": lambda client: client.version("a/b", "2"),
    "move an alias": lambda client: client.move_alias("a/b", "champion", "2"),
    "policies": lambda client: list(client.policies()),
}


def answering(response: httpx.Response) -> Client:
    return Client("http://service", "spk_a_b", patience=0.0, transport=httpx.MockTransport(lambda _: response))


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_of_the_service_is_refused_by_every_call(call: str, foreign: str) -> None:
    given = FOREIGN[foreign]
    fresh = httpx.Response(given.status_code, headers=given.headers, stream=given.stream)
    with answering(fresh) as client, pytest.raises(AnswerNotUnderstood) as refused:
        CALLS[call](client)
    assert "hush" not in str(refused.value.to_problem())
    assert refused.value.hint


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST_BYTES", 1000)

    def forever() -> Iterator[bytes]:
        while True:
            yield b" " * 100

    with (
        answering(httpx.Response(200, content=forever())) as client,
        pytest.raises(AnswerNotUnderstood, match="larger than"),
    ):
        client.audit("1")


@pytest.mark.parametrize("key", [" spk_a_b", "spk_a_b\n", "spk_a_b\r\n", "\tspk_a_b "])
def test_what_files_leave_around_a_key_is_taken_off(key: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(200, json={"items": [], "next": None})

    with Client("http://service", key, transport=httpx.MockTransport(answer)) as client:
        assert list(client.audits()) == []
    assert seen == ["Bearer spk_a_b"]


@pytest.mark.parametrize("key", ["spk_a\nhush", "spk_a\x00hush", "spk_ä_hush", "spk_a hush", "spk_a\udc80hush"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(UsageError) as refused:
        Client("http://service", key)
    assert "hush" not in str(refused.value.to_problem())
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_no_key_is_no_header(key: str | None) -> None:
    assert connection.read_key(key) is None


@pytest.mark.parametrize(
    "address",
    ["", "http://", "http://[::1", "localhost:8000", "127.0.0.1:8000", "ftp://host", "http://h:99999999", "http://h:x",
     "http://user:hush@host", "hush@host", "http://h/?token=hush", "http://h/#hush", "http://a b", "http://\x00"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        Client(address)
    assert "hush" not in str(refused.value.to_problem())


@pytest.mark.parametrize("address", ["http://h", "https://h:8000/", "http://[::1]:80/spinal/", " http://h\n"])
def test_an_address_of_a_service_is_taken(address: str) -> None:
    Client(address).close()


def test_a_date_to_come_again_is_understood() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20))
    asked = connection._retry_after(httpx.Response(503, headers={"Retry-After": soon}))
    assert 10.0 < asked <= 20.0
    for nothing in ("", "soon", "-1"):
        assert connection._retry_after(httpx.Response(503, headers={"Retry-After": nothing})) == 0.0
    assert connection._retry_after(httpx.Response(503, headers={"Retry-After": "9" * 5000})) == 30.0
    # A limit of the caller's own: no request before its time is answered otherwise.
    assert connection._retry_after(httpx.Response(429, headers={"Retry-After": "600"})) == 600.0


def audit(state: str) -> dict[str, Any]:
    return {"id": "1", "state": state, "verdict": None, "progress": {"phase": "walk", "fraction": 0.5}}


def test_a_wait_is_over_at_its_deadline_whatever_the_patience() -> None:
    with Client("http://service", patience=0.0, transport=httpx.MockTransport(late(4))) as client:
        assert client.wait("1", timeout=60.0)["state"] == "SUCCEEDED"
    with Client("http://127.0.0.1:1", patience=900.0) as client, pytest.raises(ServiceUnreachable) as away:
        client.wait("1", timeout=0.5)
    assert away.value.extra["audit_id"] == "1"
    running = httpx.MockTransport(lambda _: httpx.Response(200, json=audit("RUNNING")))
    with Client("http://service", transport=running) as client, pytest.raises(AuditStillRunning):
        client.wait("1", timeout=0.2)


def late(failures: int) -> Callable[[httpx.Request], httpx.Response]:
    """A transport that fails so often before it answers."""
    left = [failures]

    def answer(request: httpx.Request) -> httpx.Response:
        left[0] -= 1
        if left[0] >= 0:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=audit("SUCCEEDED"))

    return answer


def test_connections_that_nobody_serves_any_more_are_left_for_new_ones() -> None:
    """The first two connections are taken and never answered, as behind a load balancer that forgot them; the third
    answer comes drop by drop and does not end."""
    body = json.dumps(audit("SUCCEEDED")).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            kept = [listening.accept()[0] for _ in range(2)]
            dripping = listening.accept()[0]
            dripping.sendall(head)
            answered = listening.accept()[0]
            answered.recv(65536)
            answered.sendall(head + body)
            done.wait(30.0)
            for each in (*kept, dripping, answered):
                each.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with Client(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=0.3) as client:
            assert client.wait("1", timeout=60.0, every=0.0)["state"] == "SUCCEEDED"
        done.set()
        thread.join(30.0)


def test_certificates_that_are_not_trusted_are_not_tried_again() -> None:
    tries: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tries.append(1)
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")

    made = Client("https://service", patience=900.0, transport=httpx.MockTransport(answer))
    with made as client, pytest.raises(SpinalError):
        client.audit("1")
    assert len(tries) == 1
