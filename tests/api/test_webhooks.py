"""Webhooks over HTTP: whose they are, what they are told, by which secret, and what is refused."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from spinal.webhook_signing import verify_headers
from tests.support.hooks import PEPPER, Hooks, for_webhooks
from tests.support.receiver import Receiver, says

Drain = Callable[[], int]
URL = "https://hooks.example.org/spinal"


@pytest.fixture
def api_settings(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return for_webhooks(api_settings, monkeypatch, webhooks=5)


@pytest.fixture
def hooks(api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings) -> Hooks:
    return Hooks(api, drain, ledger, api_settings)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        yield found


def test_the_end_of_an_audit_reaches_a_webhook(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url, events=["audit.*"])
    asked = hooks.submit(labels={"release": "7"})
    hooks.drain()
    assert hooks.send() == 1
    [got] = receiver.got
    got.verify(made["secret"])
    shown = hooks.api.get(f"/v1/audits/{asked}").json()
    told = got.message["data"]
    assert got.message["type"] == "audit.succeeded"
    assert (told["audit"], told["state"], told["labels"]) == (asked, "SUCCEEDED", {"release": "7"})
    assert told["verdict"] == shown["verdict"]
    assert told["models"] == {"candidate": "local:dpo-short", "reference": "local:sft", "control": None}
    with hooks.ledger.read() as session:
        [row] = session.execute(text("SELECT comparison, candidate_trace, reference_trace, policy FROM audits"))
    assert told["digests"]["comparison"] == row.comparison
    assert told["digests"]["traces"] == {
        "candidate": row.candidate_trace,
        "reference": row.reference_trace,
        "control": None,
    }
    assert set(told["digests"]["weights"]) == {"candidate", "reference"}
    assert told["policy"] == {"name": "spinal-default/2", "digest": row.policy}
    [log] = hooks.log(made)
    assert (log["state"], log["event"], log["next_attempt_at"]) == ("SUCCEEDED", got.id, None)
    [tried] = log["tries"]
    assert (tried["ok"], tried["status"], tried["attempt"], tried["detail"]) == (True, 200, 1, None)
    one = hooks.api.get(f"/v1/webhooks/{made['id']}/deliveries/{log['id']}")
    assert one.json() == log


def test_a_series_is_told_of_when_its_status_changes_and_when_it_ends(hooks: Hooks, receiver: Receiver) -> None:
    from worker.dispatcher import Dispatcher

    made = hooks.make(receiver.url, events=["series.*"], filters={"models": ["local:sft"]})
    hooks.make(receiver.url, events=["series.*"], filters={"models": ["local:other"]})
    sent = {"reference": "local:sft", "labels": {"run": "9"}, "members": [{"step": 1, "model": "local:dpo-short"}]}
    series = hooks.api.post("/v1/series", json=sent).json()["id"]
    hooks.drain()
    assert hooks.api.post(f"/v1/series/{series}/close").status_code == 200
    dispatcher = Dispatcher(hooks.settings)
    try:
        dispatcher.assess()
    finally:
        dispatcher.close()
    hooks.send()
    assert sorted(got.message["type"] for got in receiver.got) == ["series.ended", "series.status"]
    for got in receiver.got:
        got.verify(made["secret"])
        told = got.message["data"]
        assert (told["series"], told["labels"], told["members"], told["settled"]) == (series, {"run": "9"}, 1, 1)
        assert told["status"] == hooks.api.get(f"/v1/series/{series}").json()["status"]


def test_only_what_filters_let_through_is_told(hooks: Hooks, receiver: Receiver) -> None:
    hooks.make(receiver.url, events=["audit.cancelled"], filters={"labels": {"of": "us"}})
    wanted = hooks.end_one(labels={"of": "us"})
    hooks.end_one(labels={"of": "them"}, profile={"seed": 5})
    hooks.send()
    assert [got.message["data"]["audit"] for got in receiver.got] == [wanted]


def test_a_webhook_is_told_of_nothing_from_before(hooks: Hooks, receiver: Receiver) -> None:
    hooks.end_one()
    hooks.send()
    hooks.make(receiver.url)
    assert hooks.send() == 0


def test_a_secret_is_shown_once_and_two_sign_during_an_overlap(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url)
    assert "secret" not in hooks.read(made)
    assert made["secret"] not in hooks.api.get("/v1/webhooks").text
    assert made["public_key"] is None
    rotated = hooks.api.post(f"/v1/webhooks/{made['id']}/rotate", json={"overlap_s": 3600}).json()
    assert rotated["secret"].startswith("whsec_")
    assert rotated["secret"] != made["secret"]
    assert hooks.read(made)["former_until"] is not None
    hooks.test(made)
    hooks.send()
    for secret in (made["secret"], rotated["secret"]):
        receiver.got[0].verify(secret)
    hooks.pass_time(3601)
    hooks.test(made)
    hooks.send()
    receiver.got[1].verify(rotated["secret"])
    with pytest.raises(Exception, match="No matching signature"):
        receiver.got[1].verify(made["secret"])
    assert hooks.read(made)["former_until"] is None
    with hooks.ledger.read() as session:
        [row] = session.execute(text("SELECT w::text AS kept FROM webhooks w")).all()
    assert not any(secret[6:] in row.kept for secret in (made["secret"], rotated["secret"]))


def test_a_rotation_whose_answer_was_lost_is_one_rotation(hooks: Hooks) -> None:
    made = hooks.make(URL)
    path = f"/v1/webhooks/{made['id']}/rotate"
    first, second = (hooks.api.post(path, json={"generation": made["generation"]}).json() for _ in range(2))
    assert first["generation"] == second["generation"] == 2
    assert first["secret"] == second["secret"] != made["secret"]


@pytest.mark.parametrize("asked", ["the last one, long after", "one of long ago", "one that is none yet"])
def test_no_rotation_shows_a_secret_that_is_there_already(hooks: Hooks, asked: str) -> None:
    made = hooks.make(URL)
    path = f"/v1/webhooks/{made['id']}/rotate"
    for generation in (1, 2):
        assert hooks.api.post(path, json={"generation": generation}).status_code == 200
    if asked == "the last one, long after":
        hooks.pass_time(601)
    generation = {"the last one, long after": 2, "one of long ago": 1, "one that is none yet": 999_999}[asked]
    before = hooks.read(made)
    refused = hooks.api.post(path, json={"generation": generation})
    assert (refused.status_code, refused.json()["code"]) == (409, "webhook_rotated")
    assert "whsec_" not in refused.text
    assert hooks.read(made) == before


def test_at_once_the_former_secret_signs_no_more(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url)
    again = hooks.api.post(f"/v1/webhooks/{made['id']}/rotate", json={"overlap_s": 0}).json()
    hooks.test(made)
    hooks.send()
    receiver.got[0].verify(again["secret"])
    assert " " not in receiver.got[0].headers["webhook-signature"]


def test_a_key_of_v1a_is_public_in_every_answer(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url, signature="v1a")
    assert (made["secret"], made["public_key"]) == (None, hooks.read(made)["public_key"])
    assert hooks.api.get("/v1/webhooks").json()["items"][0]["public_key"] == made["public_key"]
    hooks.api.post(f"/v1/webhooks/{made['id']}/rotate", json={})
    changed = hooks.read(made)
    assert changed["former_public_key"] == made["public_key"] != changed["public_key"]
    hooks.test(made)
    hooks.send()
    [got] = receiver.got
    for key in (made["public_key"], changed["public_key"]):
        assert verify_headers(key, got.headers, got.body) == got.id


def test_what_waits_is_tried_at_once_when_it_is_sent_again(hooks: Hooks, receiver: Receiver) -> None:
    receiver.answers = [says(500), says()]
    made = hooks.make(receiver.url)
    told = hooks.test(made)
    hooks.send()
    path = f"/v1/webhooks/{made['id']}/deliveries/{told['id']}/resend"
    assert hooks.api.post(path).json()["id"] == told["id"]
    assert hooks.send() == 1
    again = [hooks.api.post(path).json() for _ in range(2)]
    assert [each["sent_again"] for each in again] == [1, 1], "two who ask at once are one delivery"
    hooks.send()
    assert hooks.api.post(path).json()["sent_again"] == 2
    hooks.send()
    assert len(hooks.log(made)) == 3
    assert {got.id for got in receiver.got} == {told["event"]}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no address": ({"url": ""}, "request_invalid"),
    "a word": ({"url": "hooks"}, "webhook_url_refused"),
    "in clear": ({"url": "http://hooks.example.org/x"}, "webhook_url_refused"),
    "another scheme": ({"url": "ftp://hooks.example.org/x"}, "webhook_url_refused"),
    "with a password": ({"url": "https://me:secret@hooks.example.org"}, "webhook_url_refused"),
    "a private address": ({"url": "https://10.1.2.3/x"}, "webhook_url_refused"),
    "the metadata of a cloud": ({"url": "https://169.254.169.254/latest"}, "webhook_url_refused"),
    "a control character": ({"url": "https://hooks.example.org/\n"}, "request_invalid"),
    "too long": ({"url": "https://hooks.example.org/" + "x" * 2100}, "request_invalid"),
    "an unknown type": ({"events": ["audit.ended"]}, "request_invalid"),
    "a test": ({"events": ["webhook.test"]}, "request_invalid"),
    "no type": ({"events": []}, "request_invalid"),
    "an unknown filter": ({"filters": {"tenants": ["x"]}}, "request_invalid"),
    "an unknown verdict": ({"filters": {"verdicts": ["good"]}}, "request_invalid"),
    "an unknown member": ({"secret": "whsec_mine"}, "request_invalid"),
    "another signature": ({"signature": "v2"}, "request_invalid"),
    "NUL": ({"description": "\x00"}, "request_invalid"),
}


def test_what_is_no_webhook_is_refused_in_words(hooks: Hooks) -> None:
    for what, (members, code) in REFUSED.items():
        answer = hooks.api.post("/v1/webhooks", json={"url": URL} | members)
        assert (answer.status_code, answer.json()["code"]) == (422, code), what
        assert "secret@" not in answer.text
    assert hooks.api.get("/v1/webhooks").json()["items"] == []


def test_what_changes_nothing_or_wrongly_is_refused(hooks: Hooks) -> None:
    path = f"/v1/webhooks/{hooks.make(URL)['id']}"
    for members in ({}, {"url": "http://10.0.0.1/"}, {"events": None}, {"enabled": None}, {"signature": "v1a"}):
        assert hooks.api.patch(path, json=members).status_code == 422, members
    for overlap in (-1, 8 * 86_400, "1", None):
        assert hooks.api.post(f"{path}/rotate", json={"overlap_s": overlap}).status_code == 422
    changed = hooks.api.patch(path, json={"url": f"{URL}/2", "description": "x", "filters": {"models": ["m"]}}).json()
    assert (changed["url"], changed["description"], changed["filters"]["models"]) == (f"{URL}/2", "x", ["m"])
    assert hooks.api.patch(path, json={"description": None}).json()["description"] is None


def test_a_tenant_has_so_many_webhooks_and_no_more(hooks: Hooks) -> None:
    answers: list[int] = []

    def make() -> None:
        answers.append(hooks.api.post("/v1/webhooks", json={"url": URL}).status_code)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] * 5 + [409] * 3
    found = hooks.api.get("/v1/webhooks?limit=3")
    items = found.json()["items"]
    following = hooks.api.get(f"/v1/webhooks?limit=3&cursor={found.json()['next']}").json()
    assert len({each["id"] for each in items + following["items"]}) == 5
    assert following["next"] is None
    assert hooks.api.delete(f"/v1/webhooks/{items[0]['id']}").status_code == 204
    hooks.make(URL)


def test_a_log_has_pages(hooks: Hooks, receiver: Receiver) -> None:
    made = hooks.make(receiver.url)
    told = [hooks.test(made)["id"] for _ in range(3)]
    path = f"/v1/webhooks/{made['id']}/deliveries?limit=2"
    first = hooks.api.get(path).json()
    second = hooks.api.get(f"{path}&cursor={first['next']}").json()
    assert [each["id"] for each in first["items"] + second["items"]] == told[::-1]
    assert second["next"] is None


class TestTwoTenants:
    @pytest.fixture
    def api_settings(self, api_settings: Settings) -> Settings:
        return api_settings.model_copy(update={"auth": "required"})

    def test_neither_sees_hears_or_changes_the_others(
        self, api_settings: Settings, ledger: Ledger, drain: Drain, receiver: Receiver
    ) -> None:
        with ledger.begin() as session:
            keys = {
                tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper=PEPPER)
                for tenant in ("ours", "theirs")
            } | {"reader": create_key(session, tenant="ours", scopes=("read",), pepper=PEPPER)}
        with TestClient(create_app(api_settings)) as client:

            def of(tenant: str) -> Hooks:
                bound = TestClient(client.app, headers={"Authorization": f"Bearer {keys[tenant]}"})
                return Hooks(bound, drain, ledger, api_settings)

            ours, theirs, reader = of("ours"), of("theirs"), of("reader")
            made = {"ours": ours.make(receiver.url), "theirs": theirs.make(receiver.url)}
            told = ours.test(made["ours"])
            audits = {"ours": ours.end_one(), "theirs": theirs.end_one()}
            ours.send()
            for tenant, audit in audits.items():
                got = [each for each in receiver.got if each.message["data"].get("audit") == audit]
                assert len(got) == 1
                got[0].verify(made[tenant]["secret"])
            assert [each["id"] for each in theirs.api.get("/v1/webhooks").json()["items"]] == [made["theirs"]["id"]]
            path = f"/v1/webhooks/{made['ours']['id']}"
            own = f"/v1/webhooks/{made['theirs']['id']}"
            for method, where, body in (
                ("GET", path, None),
                ("PATCH", path, {"enabled": False}),
                ("DELETE", path, None),
                ("POST", f"{path}/rotate", {}),
                ("POST", f"{path}/test", None),
                ("GET", f"{path}/deliveries", None),
                ("GET", f"{path}/deliveries/{told['id']}", None),
                ("POST", f"{path}/deliveries/{told['id']}/resend", None),
                ("GET", f"{own}/deliveries/{told['id']}", None),
                ("POST", f"{own}/deliveries/{told['id']}/resend", None),
            ):
                answer = theirs.api.request(method, where, json=body)
                assert answer.status_code == 404, (method, where)
                assert answer.json()["code"] == ("delivery_not_found" if own in where else "webhook_not_found")
            assert ours.read(made["ours"])["enabled"]
            assert len(ours.log(made["ours"])) == 2
            # Who may only read makes and changes none.
            assert reader.api.get(path).status_code == 200
            for method, where, sent in (
                ("POST", "/v1/webhooks", {"url": URL}),
                ("PATCH", path, {"enabled": False}),
                ("DELETE", path, None),
                ("POST", f"{path}/rotate", {}),
                ("POST", f"{path}/test", None),
                ("POST", f"{path}/deliveries/{told['id']}/resend", None),
            ):
                assert reader.api.request(method, where, json=sent).status_code == 403, (method, where)


class TestWithoutAPepper:
    @pytest.fixture
    def api_settings(self, api_settings: Settings) -> Settings:
        return api_settings.model_copy(update={"key_pepper": type(api_settings.key_pepper)("")})

    def test_none_is_made(self, api: TestClient) -> None:
        answer = api.post("/v1/webhooks", json={"url": URL})
        assert (answer.status_code, answer.json()["code"]) == (503, "webhooks_not_configured")
        assert "SPINAL_KEY_PEPPER" in answer.json()["detail"]
        assert api.get("/v1/webhooks").json()["items"] == []
