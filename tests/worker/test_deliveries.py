"""Receivers that fail in every way that there is, and workers that die: nothing is lost, each event has one id, and no
byte goes where none may go."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from structlog.testing import capture_logs

from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.deliveries.events import add_event
from service.deliveries.outbox import MOST_FAILED, add_delivery, send_out
from service.deliveries.targets import Place
from service.operations.retention import delete_what_can_be_made_again
from service.runs import transitions
from service.runs.kinds import SCHEDULE_S, attempts_of
from service.settings import Settings
from service.webhooks.store import FAILING_FOR_S, end_waiting, insert_webhook
from spinal.net import connections
from spinal.webhooks import verify
from tests.conftest import ROOT
from tests.support.hooks import Hooks, for_webhooks, put_webhook
from tests.support.receiver import Answering, Got, Receiver, says
from tests.support.waiting import until
from worker.kinds.deliver import JITTER, LONGEST_ASKED_S
from worker.tasks import perform

Drain = Callable[[], int]


@pytest.fixture
def changes() -> dict[str, Any]:
    """Settings that a test changes."""
    return {}


@pytest.fixture
def api_settings(api_settings: Settings, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    return for_webhooks(api_settings, monkeypatch, **changes)


@pytest.fixture
def hooks(api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings) -> Hooks:
    return Hooks(api, drain, ledger, api_settings)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def stalls(_connection: socket.socket, _got: Got) -> None:
    threading.Event().wait(3.0)


def drips_its_head(connection: socket.socket, _got: Got) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n" + b"x-more: y\r\n" * 20:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.05)


def drips_its_body(connection: socket.socket, _got: Got) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"x")
        threading.Event().wait(0.05)


def huge(connection: socket.socket, _got: Got) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b"x" * 1_000_000)


def resets(connection: socket.socket, _got: Got) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def is_no_http(connection: socket.socket, _got: Got) -> None:
    connection.sendall(b"\x00\x01\x02 nothing of HTTP \r\n\r\n")


def hangs_up(connection: socket.socket, _got: Got) -> None:
    connection.shutdown(socket.SHUT_RDWR)


INWARDS = "http://127.0.0.1:1/secret"
HOSTILE: dict[str, tuple[Answering, int | None, str]] = {
    "an error": (says(500, b"<script>stack trace</script>"), 500, "it answered 500"),
    "a refusal": (says(404), 404, "it answered 404"),
    "a redirect inwards": (says(302, location=INWARDS), 302, "redirects (302)"),
    "a redirect that keeps the method": (says(307, location=INWARDS), 307, "redirects (307)"),
    "not modified": (says(304), 304, "it answered 304"),
    "a reset": (resets, None, "no answer"),
    "hanging up": (hangs_up, None, "no answer"),
    "bytes": (is_no_http, None, "no answer"),
}
SLOW: dict[str, tuple[Answering, int | None, str]] = {
    "a stall": (stalls, None, "took too long"),
    "a head that drips": (drips_its_head, None, "took too long"),
}


@pytest.mark.parametrize(
    ("hostile", "changes"),
    [pytest.param(HOSTILE, {}, id="at once"), pytest.param(SLOW, {"delivery_answer_s": 1.0}, id="slow")],
)
def test_what_is_not_taken_is_told_and_tried_again(
    hooks: Hooks, hostile: dict[str, tuple[Answering, int | None, str]]
) -> None:
    with ExitStack() as open_ones:
        receivers = {way: open_ones.enter_context(Receiver(answer)) for way, (answer, _, _) in hostile.items()}
        made = {way: hooks.make(receiver.url) for way, receiver in receivers.items()}
        for each in made.values():
            hooks.test(each)
        hooks.send()
        for way, (_, status, detail) in hostile.items():
            [waits] = hooks.log(made[way])
            assert waits["state"] == "QUEUED", way
            # On a slow machine the first may be due again before the last was tried.
            for tried in waits["tries"]:
                assert (tried["ok"], tried["status"]) == (False, status), way
                assert detail in tried["detail"], way
                assert "\n" not in tried["detail"]
                assert "script" not in tried["detail"], "nothing of an answer is kept but its status"
            assert hooks.read(made[way])["failing_since"] is not None
            receivers[way].answers = [says()]
        hooks.pass_time(SCHEDULE_S[2] * (1 + JITTER))
        assert hooks.send() == len(hostile)
        for way, receiver in receivers.items():
            [done] = hooks.log(made[way])
            failed = [False] * (len(done["tries"]) - 1)
            assert (done["state"], [each["ok"] for each in done["tries"]]) == ("SUCCEEDED", [*failed, True]), way
            assert failed
            assert [got.id for got in receiver.got] == [done["event"]] * len(done["tries"])
            assert len({got.body for got in receiver.got}) == 1
            for got in receiver.got:
                got.verify(made[way]["secret"])
            assert hooks.read(made[way])["failing_since"] is None


def test_an_event_that_cannot_be_sent_out_keeps_no_other_waiting(
    hooks: Hooks, ledger: Ledger, receiver: Receiver
) -> None:
    made = hooks.make(receiver.url)
    with ledger.begin() as session:
        # A row as no code of ours writes it.
        members = {"url": receiver.url, "events": ["*"], "filters": {"labels": ["x"]}}
        assert insert_webhook(session, new_id(), "others", members, most=100)
        for _ in range(2 * MOST_FAILED):
            session.execute(
                text("""INSERT INTO events (tenant, type, subject_kind, subject)
                        VALUES ('others', 'audit.failed', 'audit', gen_random_uuid())""")
            )
    hooks.end_one()
    hooks.send()
    assert [got.id for got in receiver.got] == [each["event"] for each in hooks.log(made)]
    assert len(receiver.got) == 1


def test_an_error_as_the_release_before_wrote_it_names_no_host_and_no_place(
    hooks: Hooks, ledger: Ledger, receiver: Receiver
) -> None:
    hooks.make(receiver.url, events=["audit.failed"])
    error = {
        "code": "lease_lost",
        "title": "Lost",
        "detail": "cannot read /srv/models/acme/sft",
        "worker": "gpu-host-7",
    }
    audit = hooks.submit()
    with ledger.begin() as session:
        session.execute(
            text(
                "UPDATE audits SET state = 'FAILED', finished_at = now(), error = CAST(:error AS jsonb) WHERE id = :id"
            ),
            {"error": json.dumps(error), "id": audit},
        )
    hooks.send()
    [got] = receiver.got
    assert got.message["data"]["error"] == {"code": "lease_lost", "title": "Lost", "detail": "cannot read sft"}


def test_what_is_taken_is_taken_whatever_follows(hooks: Hooks) -> None:
    with ExitStack() as open_ones:
        receivers = [open_ones.enter_context(Receiver(answer)) for answer in (huge, drips_its_body, says(204))]
        made = [hooks.make(receiver.url) for receiver in receivers]
        for each in made:
            hooks.test(each)
        hooks.send()
        for each in made:
            [done] = hooks.log(each)
            assert (done["state"], done["tries"][0]["ok"]) == ("SUCCEEDED", True)


def test_a_receiver_that_asks_to_wait_is_waited_for(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(429, retry_after="4000"), says(503), says()]
    made = hooks.make(receiver.url)
    hooks.test(made)
    hooks.send()
    [waits] = hooks.log(made)
    assert "asks to wait for 4000 s" in waits["tries"][0]["detail"]
    hooks.pass_time(3900)
    assert hooks.send() == 0
    hooks.pass_time(200)
    assert hooks.send() == 1
    hooks.pass_time(SCHEDULE_S[1] * (1 + JITTER))
    assert hooks.send() == 1
    [done] = hooks.log(made)
    assert [each["status"] for each in done["tries"]] == [429, 503, 200]
    assert done["state"] == "SUCCEEDED"


def test_what_asks_for_no_time_that_there_is_changes_little(hooks: Hooks) -> None:
    asks = ("-1", "soon", "99999999999999999999999", "Mon, 01 Jan 1990 00:00:00 GMT", "١٢")

    def asking(said: str) -> Answering:
        head = f"HTTP/1.1 503 x\r\nretry-after: {said}\r\ncontent-length: 0\r\n\r\n".encode()
        return lambda connection, _got: connection.sendall(head)

    with ExitStack() as open_ones:
        made = [hooks.make(open_ones.enter_context(Receiver(asking(said))).url) for said in asks]
        for each in made:
            hooks.test(each)
        hooks.send()
        assert {hooks.log(each)[0]["state"] for each in made} == {"QUEUED"}
        hooks.pass_time(LONGEST_ASKED_S + 60)
        assert hooks.send() == len(asks)


def test_a_receiver_that_is_away_for_an_hour_misses_nothing(hooks: Hooks) -> None:
    with Receiver() as first:
        port, url = first.port, first.url
    made = hooks.make(url, events=["audit.*"])
    audits = [hooks.end_one(profile={"seed": seed}) for seed in range(3)]
    for _ in range(4):
        hooks.send()
        hooks.pass_time(900)
    log = hooks.log(made)
    assert {each["state"] for each in log} == {"QUEUED"}
    assert all("connection refused" in each["detail"] for told in log for each in told["tries"])
    with Receiver(port=port) as back:
        hooks.pass_time(7200)
        assert hooks.send() == 3
    assert {got.message["data"]["audit"] for got in back.got} == set(audits)
    assert Counter(got.id for got in back.got) == {each["event"]: 1 for each in log}
    for got in back.got:
        got.verify(made["secret"])
        assert verify(got.body, got.headers, made["secret"])["type"] == "audit.cancelled"
    assert {each["state"] for each in hooks.log(made)} == {"SUCCEEDED"}


def test_after_the_whole_schedule_it_has_failed_and_can_be_sent_again(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(500)]
    made = hooks.make(receiver.url)
    told = hooks.test(made)
    for pause in (*SCHEDULE_S, 0.0):
        assert hooks.send() == 1
        hooks.pass_time(pause * (1 + JITTER))
    assert hooks.send() == 0
    [failed] = hooks.log(made)
    assert (failed["state"], len(failed["tries"])) == ("FAILED", len(SCHEDULE_S) + 1)
    assert "it answered 500" in failed["detail"]
    assert hooks.read(made)["enabled"], "one event that is not taken disables nothing"
    receiver.answers = [says()]
    again = hooks.api.post(f"/v1/webhooks/{made['id']}/deliveries/{told['id']}/resend")
    assert (again.status_code, again.json()["sent_again"]) == (202, 1)
    assert hooks.send() == 1
    assert {got.id for got in receiver.got} == {told["event"]}, "one id at every attempt, sent again or not"
    assert [each["state"] for each in hooks.log(made)] == ["SUCCEEDED", "FAILED"]


def test_days_of_nothing_but_failure_disable_a_webhook(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(500), says(), says(500)]
    made = hooks.make(receiver.url)
    hooks.test(made)
    hooks.send()
    hooks.pass_time(FAILING_FOR_S - 60)
    hooks.send()
    assert hooks.read(made)["failing_since"] is None, "what was taken ends it"
    for _ in range(3):
        hooks.test(made)
    hooks.send()
    hooks.pass_time(FAILING_FOR_S - 60)
    hooks.send()
    assert hooks.read(made)["enabled"]
    hooks.pass_time(FAILING_FOR_S)
    hooks.send()
    found = hooks.read(made)
    assert (found["enabled"], found["disabled_why"]) == (False, "nothing was taken for 5 days")
    tries = len(receiver.got)
    hooks.pass_time(200_000)
    hooks.send()
    assert len(receiver.got) == tries
    assert {each["state"] for each in hooks.log(made)} == {"SUCCEEDED", "CANCELLED"}


def test_deliveries_that_ended_long_ago_go_with_their_log_and_nothing_is_told_again(
    hooks: Hooks, receiver: Receiver, ledger: Ledger, api_settings: Settings
) -> None:
    """Of every tenant. What waits is kept however old it is, and so is what was told: it belongs to its audit."""
    receiver.answers = [says(), says(500), says()]
    made = hooks.make(receiver.url, events=["audit.*"])
    audits = [hooks.end_one(profile={"seed": seed}) for seed in range(2)]
    hooks.send()
    other = put_webhook(ledger, api_settings, "another")
    with ledger.begin() as session:
        assert end_waiting(session, UUID(other["webhook_id"])) == 1
        # Ended rows are final for whoever has triggers.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text("UPDATE deliveries SET created_at = created_at - interval '91 days'"))
        session.execute(text("UPDATE runs SET finished_at = finished_at - interval '91 days' WHERE kind = 'deliver'"))
    young = hooks.test(made)
    hooks.send()

    def retain(*, apply: bool) -> int:
        return delete_what_can_be_made_again(ledger, None, None, None, 90.0, apply=apply)["deliveries"]

    assert retain(apply=False) == 2
    assert len(hooks.log(made)) == 3
    assert retain(apply=True) == 2
    left = hooks.log(made)
    assert [(each["type"], each["state"]) for each in left] == [
        ("webhook.test", "SUCCEEDED"),
        ("audit.cancelled", "QUEUED"),
    ]
    assert left[0]["id"] == young["id"]
    assert retain(apply=True) == 0
    hooks.pass_time(7200)
    assert hooks.send() == 1
    told = Counter(got.message["data"].get("audit") for got in receiver.got if got.message["type"] != "webhook.test")
    assert sorted(told.values()) == [1, 2], "one was taken at once, the other at the second try"
    assert set(told) == set(audits)


def test_what_is_there_for_its_deliveries_alone_goes_with_the_last_of_them(
    hooks: Hooks, receiver: Receiver, ledger: Ledger, api_settings: Settings
) -> None:
    """Tests of webhooks and refusals of versions, also where an earlier release left them without deliveries."""
    made = hooks.make(receiver.url)
    hooks.end_one()
    hooks.test(made)
    twice = hooks.test(made)
    with ledger.begin() as session:
        refused = add_event(session, "default", "version.refused", "registry_version", new_id(), {})
        place = Place(place={"registry": "production", "model": "chat", "version": "2"})
        add_delivery(session, api_settings, refused, "mlflow", place)
        add_event(session, "default", "webhook.test", "webhook", UUID(made["id"]), {})
    send_out(ledger, api_settings)
    with ledger.begin() as session:
        # As if all of that had been long ago, and had ended.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        for table in ("events", "deliveries"):
            session.execute(text(f"UPDATE {table} SET created_at = created_at - interval '91 days'"))
        session.execute(
            text("""UPDATE runs SET state = 'CANCELLED', finished_at = now() - interval '91 days'
                    WHERE kind = 'deliver'""")
        )
    again = hooks.api.post(f"/v1/webhooks/{made['id']}/deliveries/{twice['id']}/resend").json()
    assert again["sent_again"] == 1
    while delete_what_can_be_made_again(ledger, None, None, None, 90.0, apply=True)["deliveries"]:
        pass
    with ledger.read() as session:
        left = session.execute(text("SELECT CAST(id AS text) AS id, type FROM events ORDER BY seq")).all()
    assert [row.type for row in left] == ["audit.cancelled", "webhook.test"]
    assert left[1].id == twice["event"], "what was sent again lately is still told of"
    hooks.send()
    assert [got.id for got in receiver.got] == [twice["event"]]


def test_410_disables_it_and_ends_what_waits(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(500), says(500), says(410)]
    made = hooks.make(receiver.url)
    for _ in range(3):
        hooks.test(made)
    hooks.send()
    found = hooks.read(made)
    assert (found["enabled"], found["disabled_why"]) == (False, "its receiver answered 410: gone for good")
    log = hooks.log(made)
    assert sorted(each["state"] for each in log) == ["CANCELLED", "CANCELLED", "FAILED"]
    assert {each["detail"] for each in log if each["state"] == "CANCELLED"} == {
        "not sent any more: its receiver answered 410: gone for good"
    }
    hooks.end_one()
    hooks.pass_time(200_000)
    hooks.send()
    assert len(receiver.got) == 3
    assert hooks.api.post(f"/v1/webhooks/{made['id']}/test").json()["code"] == "webhook_disabled"
    hooks.api.patch(f"/v1/webhooks/{made['id']}", json={"enabled": True})
    receiver.answers = [says()]
    hooks.test(made)
    assert hooks.send() == 1
    assert hooks.log(made)[0]["state"] == "SUCCEEDED"


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_what_comes_up_for_a_webhook_that_is_none_any_more_is_not_sent(
    how: str, hooks: Hooks, receiver: Receiver
) -> None:
    """Made at the same moment as it was disabled: nobody could end it then."""
    made = hooks.make(receiver.url)
    told = hooks.test(made)
    if how == "disabled":
        change, why = "disabled_at = now(), disabled_why = 'why'", "why"
    else:
        change, why = "deleted_at = now(), disabled_at = now(), disabled_why = 'deleted', url = ''", "deleted"
    with hooks.ledger.begin() as session:
        session.execute(text(f"UPDATE webhooks SET {change}"))
    assert hooks.send() == 1
    assert receiver.connections == 0
    with hooks.ledger.read() as session:
        [row] = session.execute(
            text("""SELECT r.state, (SELECT count(*) FROM delivery_tries) AS tries FROM runs r
                    WHERE r.spec->>'delivery' = :id"""),
            {"id": told["id"]},
        )
    assert (row.state, row.tries) == ("CANCELLED", 0)
    if how == "disabled":
        assert hooks.log(made)[0]["detail"] == f"not sent any more: {why}"


@pytest.mark.parametrize("by", ["delete", "disable"])
def test_what_waits_ends_with_its_webhook(by: str, hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(500)]
    made = hooks.make(receiver.url)
    hooks.test(made)
    hooks.send()
    hooks.test(made)
    path = f"/v1/webhooks/{made['id']}"
    if by == "delete":
        assert hooks.api.delete(path).status_code == 204
        assert hooks.api.get(path).status_code == hooks.api.delete(path).status_code == 404
        assert hooks.api.get("/v1/webhooks").json()["items"] == []
    else:
        assert hooks.api.patch(path, json={"enabled": False}).json()["disabled_why"] == "somebody disabled it"
        assert {each["state"] for each in hooks.log(made)} == {"CANCELLED"}
    hooks.pass_time(200_000)
    assert hooks.send() == 0
    assert len(receiver.got) == 1
    with hooks.ledger.read() as session:
        assert session.execute(text("SELECT DISTINCT state FROM runs")).scalars().all() == ["CANCELLED"]


class TestWhereNoByteGoes:
    SPELLINGS = (
        "http://127.0.0.1", "https://127.0.0.1", "https://127.1", "https://0x7f000001", "https://2130706433",
        "https://0177.0.0.1", "https://[::1]", "https://[::ffff:127.0.0.1]", "https://[::ffff:7f00:1]",
        "https://[64:ff9b::7f00:1]", "https://[2002:7f00:1::]", "https://localhost", "https://LOCALHOST",
        "https://localhost.", "https://0.0.0.0", "https://[::]", "https://169.254.169.254", "https://[fe80::1]",
        "https://224.0.0.1", "https://100.64.0.1", "https://10.0.0.1", "https://user@127.0.0.1",
        "https://example.org@127.0.0.1", "https://127.0.0.1#example.org", "https://①②⑦.⓪.⓪.①",
        "https://rebound.example", "http://rebound.example",
    )  # fmt: skip

    @pytest.fixture
    def changes(self) -> dict[str, Any]:
        return {"webhook_private": ()}

    def test_no_spelling_of_a_forbidden_address_gets_a_byte(
        self, hooks: Hooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither where somebody names it, nor where it stands in the ledger already."""
        real = socket.getaddrinfo

        def look_up(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
            return real("127.0.0.1" if host == "rebound.example" else host, port, *args, **more)

        reached: list[str] = []

        def connect(address: object, _port: int, _timeout: float) -> socket.socket:
            reached.append(str(address))
            raise ConnectionRefusedError

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(connections, "_connect", connect)
        for spelling in self.SPELLINGS:
            host, *fragment = spelling.partition("#")
            url = f"{host}:{receiver.port}/hook{''.join(fragment)}"
            answer = hooks.api.post("/v1/webhooks", json={"url": url})
            # Where a name leads is seen when it is used.
            taken = spelling.lower() in ("https://localhost", "https://rebound.example")
            assert answer.status_code == (201 if taken else 422), (spelling, answer.text)
            if not taken:
                assert answer.json()["code"] in ("webhook_url_refused", "request_invalid"), spelling
            webhook = new_id()
            with hooks.ledger.begin() as session:
                assert insert_webhook(session, webhook, "default", {"url": url, "events": ["*"]}, most=100)
                event = add_event(session, "default", "webhook.test", "webhook", webhook, {})
                add_delivery(session, hooks.settings, event, "webhook", Place(webhook_id=webhook))
        assert hooks.send() == len(self.SPELLINGS)
        assert (reached, receiver.connections) == ([], 0)
        with hooks.ledger.read() as session:
            tries = session.execute(text("SELECT ok, status, detail FROM delivery_tries")).all()
        assert len(tries) == len(self.SPELLINGS)
        assert all(not tried.ok and tried.status is None and tried.detail for tried in tries)

    def test_a_name_that_leads_elsewhere_a_moment_later_gets_no_byte(
        self, hooks: Hooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Judged as public; whoever answers sits on loopback all the same."""
        real, judged = connections._connect, list[str]()

        def look_up(_host: str, _port: int, _ends: float) -> list[Any]:
            return [ip_address("93.184.216.34")]

        class Rebound(socket.socket):
            def connect(self, address: Any) -> None:
                judged.append(address[0])
                super().connect(("127.0.0.1", receiver.port))

        def connect(address: Any, port: int, timeout: float) -> socket.socket:
            with monkeypatch.context() as patched:
                patched.setattr("spinal.net.connections.socket.socket", Rebound)
                return real(address, port, timeout)

        monkeypatch.setattr(connections, "addresses_of", look_up)
        monkeypatch.setattr(connections, "_connect", connect)
        made = hooks.make("https://rebound.example/hook")
        hooks.test(made)
        hooks.send()
        assert judged == ["93.184.216.34"]
        assert (receiver.connections, receiver.got) == (1, [])
        [tried] = hooks.log(made)[0]["tries"]
        assert "leads to an address that is not public" in tried["detail"]


class TestWhoDies:
    def test_a_worker_that_dies_behind_the_answer_tells_it_again_under_one_id(
        self, hooks: Hooks, receiver: Receiver
    ) -> None:
        """kill -9 between the answer and the commit, which waits for a lock that this test holds."""
        made = hooks.make(receiver.url)
        told = hooks.test(made)
        run = _run_of(hooks, told)
        answered, held = threading.Event(), threading.Event()

        def once_held(connection: socket.socket, got: Got) -> None:
            assert held.wait(30)
            says()(connection, got)
            answered.set()

        receiver.answers = [once_held, says()]
        code = "import sys; from uuid import UUID; from worker.tasks import perform; perform(UUID(sys.argv[1]), 'dies')"
        dies = subprocess.Popen(
            [sys.executable, "-c", code, str(run)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        try:
            until(lambda: receiver.got, "the event to come", timeout=60)
            with hooks.ledger.begin() as session:
                session.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": run})
                held.set()
                assert answered.wait(30)
                until(lambda: _waits_for_a_lock(hooks), "the worker to write what came of it")
                dies.kill()
                dies.wait()
        finally:
            dies.kill()
            dies.wait()
        with hooks.ledger.begin() as session:
            session.execute(text("UPDATE runs SET lease_until = now() WHERE id = :id"), {"id": run})
        with hooks.ledger.begin() as session:
            assert transitions.reap_expired(session, attempts_of=lambda kind: attempts_of(kind, hooks.settings))
        hooks.pass_time(600)
        assert hooks.send() == 1
        assert [got.id for got in receiver.got] == [told["event"]] * 2
        assert len({got.body for got in receiver.got}) == 1
        [done] = hooks.log(made)
        assert (done["state"], [each["attempt"] for each in done["tries"]]) == ("SUCCEEDED", [2])

    def test_dispatchers_that_are_two_make_one_delivery_of_each_event(self, hooks: Hooks, receiver: Receiver) -> None:
        made = hooks.make(receiver.url, events=["audit.*"])
        for seed in range(4):
            hooks.end_one(profile={"seed": seed})
        begin, done = threading.Barrier(4), list[int]()

        def dispatch() -> None:
            begin.wait()
            done.append(send_out(hooks.ledger, hooks.settings))

        threads = [threading.Thread(target=dispatch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        send_out(hooks.ledger, hooks.settings)
        assert sum(done) == 4
        assert len(hooks.log(made)) == 4
        hooks.drain()
        assert len({got.id for got in receiver.got}) == len(receiver.got) == 4

    def test_a_doorbell_that_rings_twice_sends_once(self, hooks: Hooks, receiver: Receiver) -> None:
        made = hooks.make(receiver.url)
        run = _run_of(hooks, hooks.test(made))
        for worker in ("one", "two"):
            assert perform(run, worker) is None
        assert len(receiver.got) == 1

    def test_a_worker_without_a_pepper_leaves_it_to_others_for_as_long_as_it_takes(
        self, hooks: Hooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The operator is told of it at every attempt, the tenant of none."""
        from service.settings import get_settings

        made = hooks.make(receiver.url)
        hooks.test(made)
        monkeypatch.setenv("SPINAL_KEY_PEPPER", "")
        # That of sources ends at once.
        monkeypatch.setenv("SPINAL_SOURCE_PATIENCE_S", "0")
        get_settings.cache_clear()
        for _ in range(3):
            with capture_logs() as logs:
                assert hooks.send() == 1
            [told] = [each for each in logs if each["log_level"] == "error"]
            assert "SPINAL_KEY_PEPPER" in told["why"]
            [waits] = hooks.log(made)
            assert (waits["state"], waits["tries"], waits["detail"]) == ("QUEUED", [], None)
            hooks.pass_time(SCHEDULE_S[-1])
        assert receiver.connections == 0
        with hooks.ledger.read() as session:
            assert session.execute(text("SELECT charged_attempts FROM runs")).scalar_one() == 0
            assert "PEPPER" not in str(session.execute(text("SELECT error FROM run_attempts")).all())
        monkeypatch.setenv("SPINAL_KEY_PEPPER", "pepper of a test")
        get_settings.cache_clear()
        assert hooks.send() == 1
        receiver.got[0].verify(made["secret"])


def _run_of(hooks: Hooks, told: dict[str, Any]) -> UUID:
    with hooks.ledger.read() as session:
        found: UUID = session.execute(
            text("SELECT run_id FROM deliveries WHERE id = :id"), {"id": told["id"]}
        ).scalar_one()
    return found


def _waits_for_a_lock(hooks: Hooks) -> bool:
    with hooks.ledger.read() as session:
        waiting: int = session.execute(
            text("""SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                    AND wait_event_type = 'Lock'""")
        ).scalar_one()
    return waiting > 0


def test_what_is_sent_says_what_it_is(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url)
    told = hooks.test(made)
    hooks.send()
    [got] = receiver.got
    body = json.loads(got.body)
    assert set(body) == {"type", "timestamp", "data"}
    assert {name: got.headers[name] for name in got.headers if name.startswith("ce-")} == {
        "ce-specversion": "1.0",
        "ce-id": told["event"],
        "ce-type": "webhook.test",
        "ce-source": "urn:spinal",
        "ce-subject": f"webhook/{made['id']}",
        "ce-time": body["timestamp"],
    }
    assert got.headers["content-type"] == "application/json"
    assert got.id == told["event"]
    assert "authorization" not in got.headers
