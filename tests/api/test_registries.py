"""Registries tell of versions: each is audited once for each rule, and what the audit found stands on it."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.deliveries.events import find_event
from service.deliveries.outbox import add_delivery, send_out
from service.deliveries.targets import Place
from service.integrations import asking
from service.integrations.again import tell_again
from service.integrations.polls import poll, poll_those_due
from service.operations.deletion import delete_tenant
from service.platform.artifacts import ArtifactStore
from service.platform.derived import derived_key
from service.platform.links import LONGEST, PURPOSE, read_token, report_link
from service.registries import Registries, load_registries
from service.runs.kinds import SCHEDULE_S
from service.settings import Settings, get_settings
from spinal.checkpoints.bounded import Bounds, Inspectors
from spinal.errors import PairMismatch, SourceUnavailable
from tests.api.conftest import BUNDLED
from tests.support import registry_events as events
from tests.support.hub import Hub
from tests.support.registry_events import SECRET, WHSEC
from tests.support.scripted_registry import API, Registry, says, scripted
from tests.support.waiting import until

Drain = Callable[[], int]
RULE = {"name": "chat", "model": "chat*", "reference": "@champion", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def mlflow(models: Path) -> Iterator[Registry]:
    """Version 1 of ``chat`` is the bundled base and ``champion``; version 2 what was made of it, by a run."""
    with scripted() as registry:
        registry.register("chat", "1", f"{models}/sft")
        registry.register("chat", "2", f"{models}/dpo-short")
        registry.aliases["chat", "champion"] = "1"
        registry.metrics["run1"] = {"loss": 0.25}
        yield registry


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("acme/chat", BUNDLED / "sft")
        yield made


@pytest.fixture
def model_sources(mlflow: Registry, hub: Hub) -> str:
    here = ["127.0.0.1"]
    return json.dumps(
        {
            "mlflow": {"url": mlflow.url, "allow": ["*"], "private_hosts": here},
            "hf": {"endpoint": hub.url, "allow": ["acme/*"], "private_hosts": here, "redirect_hosts": here},
        }
    )


@pytest.fixture
def registries(tmp_path: Path) -> Registries:
    for name, secret in (("mlflow", SECRET), ("former", "the former secret"), ("hub", SECRET), ("ci", WHSEC)):
        (tmp_path / name).write_text(f"{secret}\n")
    (tmp_path / "others").write_text("a secret of others\n")
    own = {"tenant": "default", "secret_files": [str(tmp_path / "mlflow"), str(tmp_path / "former")]}
    hf = {"name": "push", "model": "acme/*", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
    ci = {"name": "built", "model": "*", "candidate": "local:{version}", "reference": "local:sft"}
    others = own | {"tenant": "others", "secret_files": [str(tmp_path / "others")]}
    found = {
        "production": own | {"kind": "mlflow", "rules": [RULE], "write_back": True},
        "of-others": others | {"kind": "mlflow", "rules": [RULE]},
        "hub": own | {"kind": "huggingface", "secret_files": [str(tmp_path / "hub")], "rules": [hf]},
        "ci": own | {"kind": "generic", "secret_files": [str(tmp_path / "ci")], "rules": [ci]},
    }
    return load_registries(json.dumps(found))


@pytest.fixture
def told(registries: Registries, model_sources: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has workers told of the registry that is written to, as it is with ``changes``."""

    monkeypatch.setenv("SPINAL_MODEL_SOURCES", model_sources)

    def tell(**changes: Any) -> None:
        own = registries.by_name["production"].model_dump(mode="json", exclude_unset=True) | changes
        monkeypatch.setenv("SPINAL_REGISTRIES", json.dumps({"production": own}))
        get_settings.cache_clear()

    tell()
    yield tell
    get_settings.cache_clear()


@pytest.fixture
def api_settings(api_settings: Settings, registries: Registries, told: Callable[..., None]) -> Settings:
    changes = {"registries": registries, "missing_model_s": 0.0, "public_url": "https://audits.example"}
    return api_settings.model_copy(update=changes)


@pytest.fixture
def made(api_settings: Settings, ledger: Ledger, api: TestClient) -> Callable[[], int]:
    """Makes the audits that are due, here and now; returns how many versions it looked at."""

    def make() -> int:
        with Inspectors(Bounds(children=1), api_settings.store_of_models()) as inspectors:
            count, turns = 0, asking.Turns()
            while asking.ask_for_next(ledger, api_settings, inspectors, turns):
                count += 1
            return count

    return make


@pytest.fixture
def audited(api: TestClient, made: Callable[[], int], drain: Drain) -> Callable[[], None]:
    """A version appears, and its audit comes to its end; nobody is told of that yet."""

    def audit() -> None:
        api.post("/v1/integrations/mlflow", **events.created())
        made()
        drain()

    return audit


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on beside requests goes on when a test says so, but for the test of just that."""
    monkeypatch.setattr("service.integrations.background.ask_for_next", lambda *_: False)
    monkeypatch.setattr("service.integrations.background.poll_those_due", lambda *_: 0)
    # Of the workers.
    monkeypatch.setenv("SPINAL_PUBLIC_URL", "https://audits.example")


def versions(api: TestClient, name: str = "production") -> list[dict[str, Any]]:
    answer = api.get(f"/v1/integrations/{name}/versions")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def audits(ledger: Ledger) -> int:
    with ledger.read() as session:
        return int(session.execute(text("SELECT count(*) FROM audits")).scalar_one())


def test_a_version_is_audited_and_its_verdict_stands_on_it(
    api: TestClient, ledger: Ledger, made: Callable[[], int], drain: Drain, api_settings: Settings, mlflow: Registry
) -> None:
    answer = api.post("/v1/integrations/mlflow", **events.created())
    assert answer.status_code == 202, answer.text
    assert answer.json()["versions"] == [{"model": "chat", "version": "2", "rule": "chat", "fresh": True}]
    assert made() == 1
    drain()
    [version] = versions(api)
    audit = api.get(version["links"]["audit"]).json()
    assert (version["state"], audit["candidate"], audit["reference"]) == ("succeeded", "mlflow:chat/2", "mlflow:chat/1")
    assert audit["labels"] == {"registry": "production", "name": "chat", "version": "2"}
    assert send_out(ledger, api_settings) == 1
    drain()
    tags = mlflow.tags("chat", "2")
    assert tags["spinal.state"] == "SUCCEEDED"
    assert tags["spinal.digest"] == audit["comparison"]
    assert tags["spinal.audit"] == audit["id"]
    assert tags["spinal.report_url"].startswith(f"https://audits.example/ui/audits/{audit['id']}/report")
    assert list(tags)[-1] == "spinal.verdict"
    assert tags["spinal.verdict"] == audit["verdict"]
    scores = api.get(f"/v1/audits/{audit['id']}/scores").json()["scores"]
    logged = mlflow.metrics["run1"]
    assert logged["loss"] == 0.25
    assert logged["spinal.delta_align"] == scores["delta_align"]
    assert [logged["spinal.delta_align.low"], logged["spinal.delta_align.high"]] == scores["ci"]["delta_align"]
    before = list(mlflow.written)
    # The same carried out once more, as by a worker that was killed behind it.
    with ledger.begin() as session:
        event = find_event(session, session.execute(text("SELECT id FROM events")).scalar_one())
        assert event is not None
        place = Place(place={"registry": "production", "model": "chat", "version": "2"})
        add_delivery(session, api_settings, event, "mlflow", place, sent_again=1)
    assert drain() == 1
    assert mlflow.written == before


class TestLinks:
    """Of a service that asks for keys."""

    @pytest.fixture
    def guarded(self, api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
        """The same API as ``api`` for who has no key; workers know the pepper."""
        monkeypatch.setenv("SPINAL_KEY_PEPPER", "p")
        get_settings.cache_clear()
        keyed = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})
        with TestClient(create_app(keyed), follow_redirects=False) as client:
            yield client

    @pytest.fixture
    def written(
        self,
        api: TestClient,
        guarded: TestClient,
        ledger: Ledger,
        made: Callable[[], int],
        drain: Drain,
        api_settings: Settings,
        mlflow: Registry,
    ) -> Callable[[], str]:
        """What stands on the version for its report, once that was told; its path."""

        def tell() -> str:
            api.post("/v1/integrations/mlflow", **events.created())
            made()
            drain()
            assert send_out(ledger, api_settings) == 1
            drain()
            url = mlflow.tags("chat", "2")["spinal.report_url"]
            assert url.startswith("https://audits.example/")
            return url.removeprefix("https://audits.example")

        return tell

    def test_what_stands_on_a_version_opens_its_report_without_a_key(
        self, api: TestClient, guarded: TestClient, written: Callable[[], str]
    ) -> None:
        path = written()
        signed = read_token(derived_key("p", PURPOSE), path.removeprefix("/r/"))
        assert signed is not None
        assert signed.ends_at - signed.made_at == LONGEST
        [version] = versions(api)
        report = api.get(f"/v1/audits/{version['audit']}/report?format=html")
        answer = guarded.get(path)
        assert (answer.status_code, answer.text) == (200, report.text)
        assert guarded.get(f"/v1/audits/{version['audit']}/report").status_code == 401
        # Until the tenant ends all of its links.
        assert api.post("/v1/links/revoke").status_code < 300
        assert guarded.get(path).status_code == 410

    def test_it_ends(self, guarded: TestClient, written: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
        long_ago = partial(report_link, now=datetime.now(UTC) - LONGEST)
        monkeypatch.setattr("worker.targets.mlflow.report_link", long_ago)
        answer = guarded.get(written())
        assert (answer.status_code, "has ended" in answer.text) == (410, True)

    def test_an_operator_can_have_the_page_behind_keys_in_its_place(
        self,
        api: TestClient,
        guarded: TestClient,
        ledger: Ledger,
        api_settings: Settings,
        drain: Drain,
        mlflow: Registry,
        written: Callable[[], str],
        told: Callable[..., None],
    ) -> None:
        """Also of a version that has a signed link already, with the next delivery."""
        assert written().startswith("/r/")
        told(report_link="page")
        with ledger.begin() as session:
            event = find_event(session, session.execute(text("SELECT id FROM events")).scalar_one())
            assert event is not None
            place = Place(place={"registry": "production", "model": "chat", "version": "2"})
            add_delivery(session, api_settings, event, "mlflow", place, sent_again=1)
        drain()
        [version] = versions(api)
        page = f"/ui/audits/{version['audit']}/report"
        tags = mlflow.tags("chat", "2")
        assert tags["spinal.report_url"] == f"https://audits.example{page}"
        assert list(tags)[-1] == "spinal.verdict"
        refused = guarded.get(page)
        assert refused.status_code == 401
        assert "delta_align" not in refused.text


def test_an_event_that_comes_again_has_its_first_answer_and_no_second_audit(
    api: TestClient, ledger: Ledger, made: Callable[[], int]
) -> None:
    event = events.created()
    first = api.post("/v1/integrations/mlflow", **event)
    again = api.post("/v1/integrations/mlflow", **event)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json() | {"repeated": True}
    # Told of once more, under another id.
    other = api.post("/v1/integrations/mlflow", **events.created())
    assert (other.status_code, other.json()["versions"][0]["fresh"]) == (202, False)
    assert made() == 1
    assert api.post("/v1/integrations/mlflow", **events.created()).status_code == 202
    assert (made(), audits(ledger)) == (0, 1)


def test_many_who_make_the_same_audit_at_once_make_one(api: TestClient, ledger: Ledger, api_settings: Settings) -> None:
    bodies = [events.created(), events.created(), events.aliased("other")]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda each: api.post("/v1/integrations/mlflow", **each), bodies * 2))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 202, 202]
    with ledger.begin() as session:
        # As if nobody had been left alone with it.
        due = asking.store.take_due(session, [("production", "default", "chat")], lease_s=0.0)
    assert due is not None
    registry = api_settings.registries.by_name["production"]
    with Inspectors(Bounds(children=2), api_settings.store_of_models()) as inspectors, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asking._ask(ledger, api_settings, inspectors, registry, due), range(4)))
    assert audits(ledger) == 1


NO_RULE_CAN = "no rule can be about such an event"


def spoilt(event: dict[str, Any], **headers: str | None) -> dict[str, Any]:
    kept = {**event["headers"], **{name.replace("_", "-"): value for name, value in headers.items()}}
    return event | {"headers": {name: value for name, value in kept.items() if value is not None}}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (lambda: spoilt(events.created(), X_MLflow_Signature=None), "absent"),
        (lambda: spoilt(events.created(), X_MLflow_Delivery_Id=None), "absent"),
        (lambda: spoilt(events.created(), X_MLflow_Timestamp=""), "absent"),
        (lambda: spoilt(events.created(), X_MLflow_Timestamp="yesterday"), "malformed"),
        (lambda: spoilt(events.created(), X_MLflow_Signature="v1,@@@"), "malformed"),
        (lambda: spoilt(events.created(), X_MLflow_Signature="sha256=abc"), "malformed"),
        (lambda: spoilt(events.created(), X_MLflow_Delivery_Id="another"), "wrong"),
        (lambda: events.created(secret="not a secret of ours"), "wrong"),
        (lambda: events.created() | {"content": b"{}"}, "wrong"),
        (lambda: events.created(at=time.time() - 330), "stale"),
        (lambda: events.created(at=time.time() + 900), "stale"),
    ],
)  # fmt: skip
def test_an_event_that_is_not_signed_as_it_has_to_be_is_refused_with_what_is_wrong(
    api: TestClient, ledger: Ledger, event: Callable[[], dict[str, Any]], reason: str
) -> None:
    answer = api.post("/v1/integrations/mlflow", **event())
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["reason"]) == ("signature_invalid", reason)
    assert SECRET not in answer.text
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM received_events")).scalar_one() == 0


def test_both_secrets_of_a_rotation_are_taken_and_a_registry_is_known_by_its_own(api: TestClient) -> None:
    former = api.post("/v1/integrations/mlflow", **events.created(secret="the former secret"))
    assert (former.status_code, former.json()["registry"]) == (202, "production")
    theirs = api.post("/v1/integrations/mlflow", **events.created(secret="a secret of others"))
    assert (theirs.status_code, theirs.json()["registry"]) == (202, "of-others")
    named = api.post("/v1/integrations/mlflow?registry=of-others", **events.created())
    assert (named.status_code, named.json()["reason"]) == (401, "wrong")


@pytest.mark.parametrize(
    ("event", "outcome", "reason"),
    [
        (lambda: events.tried(), "test", None),
        (lambda: events.tagged("spinal.verdict", "pass"), "ignored", "it is a tag of our own"),
        (lambda: events.tagged("team", "a"), "ignored", "no rule is about it"),
        (lambda: events.created("other"), "ignored", "no rule is about it"),
        (
            lambda: events.mlflow("registered_model", "created", {"name": "chat"}),
            "ignored",
            "no rule can be about such an event",
        ),
        (lambda: events.mlflow("prompt", "created", {"name": "chat"}), "ignored", NO_RULE_CAN),
    ],
)
def test_what_nothing_can_come_of_is_answered_and_kept(
    api: TestClient, made: Callable[[], int], event: Callable[[], Any], outcome: str, reason: str | None
) -> None:
    answer = api.post("/v1/integrations/mlflow", **event())
    assert (answer.status_code, answer.json()["outcome"], answer.json()["reason"]) == (200, outcome, reason)
    assert made() == 0
    [registry] = [each for each in api.get("/v1/integrations").json()["items"] if each["name"] == "production"]
    assert (registry["last_outcome"], registry["versions"]) == (outcome, {})


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 422, "request_invalid"),
        (b"not JSON", 400, "body_malformed"),
        (b'{"entity": "model_version", "action": "created", "data": 1}', 422, "request_invalid"),
        (b'{"entity": "model_version", "action": "created", "data": {"name": "chat"}}', 422, "request_invalid"),
        (
            b'{"entity": "model_version", "action": "created", "data": {"name": "chat", "version": "2", "tags": 1}}',
            422,
            "request_invalid",
        ),
    ],
)
def test_an_event_that_is_signed_and_no_event_is_refused(api: TestClient, body: bytes, status: int, code: str) -> None:
    from spinal.webhook_signing import sign

    event = events.created()
    headers = event["headers"]
    at = int(headers["X-MLflow-Timestamp"])
    headers["X-MLflow-Signature"] = sign(SECRET.encode(), headers["X-MLflow-Delivery-Id"], at, body)
    answer = api.post("/v1/integrations/mlflow", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_body_over_the_limit_is_refused_before_it_is_read_on(api: TestClient) -> None:
    answer = api.post("/v1/integrations/mlflow", **events.created(tags={"long": "x" * 2**20}))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_kind_without_a_registry_is_not_there(api_settings: Settings) -> None:
    alone = api_settings.model_copy(update={"registries": Registries()})
    with TestClient(create_app(alone)) as api:
        answer = api.post("/v1/integrations/generic", **events.generic("version.created", {}))
    assert (answer.status_code, answer.json()["code"]) == (404, "registry_not_found")


def test_a_commit_on_a_hub_is_audited_once_for_each_commit(
    api: TestClient, ledger: Ledger, made: Callable[[], int], hub: Hub
) -> None:
    commit = hub.repositories["acme/chat"].commit(BUNDLED / "dpo-short")
    push = events.pushed("acme/chat", commit)
    assert [api.post("/v1/integrations/huggingface", **push).status_code for _ in range(2)] == [202, 200]
    side = events.pushed("acme/chat", commit, ref="refs/pr/1")
    assert api.post("/v1/integrations/huggingface", **side).json()["outcome"] == "ignored"
    bad = events.pushed("acme/chat", commit, secret="wrong")
    assert api.post("/v1/integrations/huggingface", **bad).json()["reason"] == "wrong"
    assert (made(), audits(ledger)) == (1, 1)
    [version] = versions(api, "hub")
    assert version["version"] == commit
    assert api.get(version["links"]["audit"]).json()["candidate"] == f"hf:acme/chat@{commit}"


def test_whatever_signs_as_standard_webhooks_has_it_can_ask(
    api: TestClient, ledger: Ledger, made: Callable[[], int]
) -> None:
    built = events.generic("version.created", {"model": "chat", "version": "dpo-short"})
    assert api.post("/v1/integrations/generic", **built).status_code == 202
    assert api.post("/v1/integrations/generic", **events.generic("ping", {})).json()["outcome"] == "test"
    assert (made(), audits(ledger)) == (1, 1)
    # What an event says never leads out of what a rule and the sources allow.
    outside = events.generic("version.created", {"model": "chat", "version": "../../etc"})
    assert api.post("/v1/integrations/generic", **outside).status_code == 202
    made()
    refused = versions(api, "ci")[0]
    assert (refused["state"], refused["problem"]["code"]) == ("refused", "model_path_refused")


def test_an_alias_chooses_the_version_that_gets_it(
    api_settings: Settings, ledger: Ledger, registries: Registries, mlflow: Registry
) -> None:
    own = registries.by_name["production"]
    rule = own.rules[0].model_copy(update={"aliases": ("candidate",), "reference": "/1"})
    changed = Registries({"production": own.model_copy(update={"rules": (rule,)})})
    with TestClient(create_app(api_settings.model_copy(update={"registries": changed}))) as api:
        assert api.post("/v1/integrations/mlflow", **events.created()).json()["outcome"] == "ignored"
        assert api.post("/v1/integrations/mlflow", **events.aliased("other")).json()["outcome"] == "ignored"
        moved = [api.post("/v1/integrations/mlflow", **events.aliased("candidate", version=each)) for each in "212"]
    assert [each.json()["versions"][0]["fresh"] for each in moved] == [True, True, False]


def test_a_version_against_itself_is_refused_and_said_on_it(
    api: TestClient, ledger: Ledger, made: Callable[[], int], drain: Drain, mlflow: Registry
) -> None:
    mlflow.aliases["chat", "champion"] = "2"
    api.post("/v1/integrations/mlflow", **events.created())
    assert made() == 1
    [version] = versions(api)
    assert (version["state"], version["problem"]["code"]) == ("refused", "pair_mismatch")
    drain()
    tags = mlflow.tags("chat", "2")
    assert tags["spinal.state"] == "REFUSED"
    assert "this version itself" in tags["spinal.reason"]
    assert "spinal.verdict" not in tags
    # The registry tells of it again, and it is something else by now.
    mlflow.aliases["chat", "champion"] = "1"
    api.post("/v1/integrations/mlflow", **events.created())
    assert (made(), audits(ledger)) == (1, 1)


def test_what_is_said_of_a_refusal_names_no_place_of_this_machine(
    api: TestClient, made: Callable[[], int], drain: Drain, mlflow: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise PairMismatch("no file named x in /srv/models/acme/sft", hint="look into /srv/models/acme")

    monkeypatch.setattr(asking, "resolve_request", refused)
    api.post("/v1/integrations/mlflow", **events.created())
    assert made() == 1
    drain()
    assert mlflow.tags("chat", "2")["spinal.reason"] == "no file named x in sft"
    assert "/srv" not in json.dumps(versions(api))


def test_a_registry_that_does_not_answer_is_asked_again_and_nothing_is_charged(
    api: TestClient, ledger: Ledger, made: Callable[[], int], mlflow: Registry
) -> None:
    mlflow.instead[f"{API}/model-versions/get"] = says(b"", 503)
    api.post("/v1/integrations/mlflow", **events.created())
    assert made() == 1
    [version] = versions(api)
    assert (version["state"], version["problem"]["code"]) == ("waiting", "source_unavailable")
    mlflow.instead.clear()
    with ledger.begin() as session:
        session.execute(text("UPDATE registry_versions SET due_at = now()"))
    assert (made(), versions(api)[0]["state"], versions(api)[0]["problem"]) == (1, "queued", None)


def test_the_reference_is_what_the_alias_named_when_it_was_first_asked_for(
    api: TestClient, ledger: Ledger, made: Callable[[], int], mlflow: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.post("/v1/integrations/mlflow", **events.created())
    with monkeypatch.context() as patched:

        def cut_off(*_: object) -> None:
            raise SourceUnavailable("the registry went away in the midst of it")

        patched.setattr(asking, "resolve_request", cut_off)
        made()
    mlflow.register("chat", "3", mlflow.versions["chat", "2"]["source"])
    mlflow.aliases["chat", "champion"] = "3"
    with ledger.begin() as session:
        session.execute(text("UPDATE registry_versions SET due_at = now()"))
    made()
    [version] = versions(api)
    assert api.get(version["links"]["audit"]).json()["reference"] == "mlflow:chat/1"


def test_an_older_audit_never_takes_the_place_of_a_newer_one(
    audited: Callable[[], None],
    api: TestClient,
    ledger: Ledger,
    made: Callable[[], int],
    drain: Drain,
    api_settings: Settings,
    mlflow: Registry,
) -> None:
    audited()
    [version] = versions(api)
    first = version["audit"]
    # Another rule has another audit of the same version made, which is cancelled: nothing is known to be good then.
    newer = {"candidate": "mlflow:chat/2", "reference": "mlflow:chat/1", "prompt_set": "hh-harmless-128"}
    second = api.post("/v1/audits", json=newer).json()["id"]
    assert api.post(f"/v1/audits/{second}/cancel").json()["state"] == "CANCELLED"
    with ledger.begin() as session:
        session.execute(
            text("""INSERT INTO registry_versions (registry, model, version, rule, tenant, audit_id)
                    VALUES ('production', 'chat', '2', 'other', 'default', :audit)"""),
            {"audit": second},
        )
    assert send_out(ledger, api_settings) == 2
    drain()
    tags = mlflow.tags("chat", "2")
    assert (tags["spinal.audit"], tags["spinal.state"]) == (second, "CANCELLED")
    assert first not in tags.values()
    assert "spinal.verdict" not in tags
    assert ("verdict" in json.dumps(mlflow.written)) is False


def test_a_verdict_never_stands_beside_what_another_audit_found(
    audited: Callable[[], None], ledger: Ledger, drain: Drain, api_settings: Settings, mlflow: Registry
) -> None:
    stale = {"spinal.verdict": "pass", "spinal.digest": "of another", "spinal.state": "SUCCEEDED", "team": "a"}
    mlflow.versions["chat", "2"]["tags"] = [{"key": key, "value": value} for key, value in stale.items()]
    mlflow.versions["chat", "2"]["run_id"] = ""
    audited()
    send_out(ledger, api_settings)
    drain()
    routes = [(route.rpartition("/")[2], told["key"]) for route, told in mlflow.written]
    assert routes[0] == ("delete-tag", "spinal.verdict")
    assert routes[-1] == ("set-tag", "spinal.verdict")
    tags = mlflow.tags("chat", "2")
    assert tags["team"] == "a"
    # Without a run its metrics are tags.
    assert float(tags["spinal.metric.delta_align.low"]) <= float(tags["spinal.metric.delta_align"])


@pytest.mark.parametrize("status", [500, 503, 401, 302])
def test_a_registry_that_does_not_take_it_is_told_later(
    audited: Callable[[], None], ledger: Ledger, drain: Drain, api_settings: Settings, mlflow: Registry, status: int
) -> None:
    audited()
    mlflow.instead[f"{API}/model-versions/set-tag"] = says(b"", status)
    send_out(ledger, api_settings)
    drain()
    assert mlflow.tags("chat", "2") == {}
    mlflow.instead.clear()
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET not_before = now() WHERE state = 'QUEUED'"))
    drain()
    assert "spinal.verdict" in mlflow.tags("chat", "2")


def pass_hours(ledger: Ledger, hours: int) -> None:
    """For everything that waits, and everything that has ended."""
    with ledger.begin() as session:
        # Ended rows are final for whoever has triggers.
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(
            text("""UPDATE runs SET not_before = not_before - make_interval(hours => :hours),
                      finished_at = finished_at - make_interval(hours => :hours) WHERE kind = 'deliver'"""),
            {"hours": hours},
        )


def sendings(ledger: Ledger) -> list[tuple[int, str, int]]:
    """(how often sent again, state, tries) of every delivery."""
    with ledger.read() as session:
        rows = session.execute(
            text("""SELECT d.sent_again, r.state,
                      (SELECT count(*) FROM delivery_tries t WHERE t.delivery_id = d.id) AS n
                    FROM deliveries d JOIN runs r ON r.id = d.run_id ORDER BY d.created_at, d.id""")
        ).all()
    return [(row.sent_again, row.state, row.n) for row in rows]


@pytest.mark.parametrize("wrong", ["hosts that may be reached", "credentials"])
def test_what_a_registry_never_took_is_told_it_again_once_it_does(
    audited: Callable[[], None],
    ledger: Ledger,
    drain: Drain,
    api_settings: Settings,
    mlflow: Registry,
    model_sources: str,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
) -> None:
    """A deliverer with wrong settings, or a registry that refuses, for longer than the schedule lasts."""
    audited()
    send_out(ledger, api_settings)
    if wrong == "credentials":
        mlflow.instead[f"{API}/model-versions/set-tag"] = says(b"", 403)
    else:
        sources = json.loads(model_sources)
        del sources["mlflow"]["private_hosts"]
        monkeypatch.setenv("SPINAL_MODEL_SOURCES", json.dumps(sources))
        get_settings.cache_clear()
    for _ in SCHEDULE_S:
        assert drain() == 1
        assert [state for _, state, _ in sendings(ledger)] == ["QUEUED"]
        pass_hours(ledger, 48)
    assert drain() == 1
    assert sendings(ledger) == [(0, "FAILED", len(SCHEDULE_S) + 1)]
    assert mlflow.tags("chat", "2") == {}
    monkeypatch.setenv("SPINAL_MODEL_SOURCES", model_sources)
    get_settings.cache_clear()
    mlflow.instead.clear()
    own = api_settings.registries.by_name["production"]
    poll(ledger, api_settings, "production", own)
    assert len(sendings(ledger)) == 1, "not at once"
    pass_hours(ledger, 2)
    mlflow.instead[f"{API}/model-versions/search"] = says(b"", 500)
    poll(ledger, api_settings, "production", own)
    assert len(sendings(ledger)) == 1, "not while the registry does not answer"
    mlflow.instead.clear()
    for _ in range(3):
        poll(ledger, api_settings, "production", own)
    assert sendings(ledger)[1:] == [(1, "QUEUED", 0)]
    drain()
    assert mlflow.tags("chat", "2")["spinal.verdict"]
    before = list(mlflow.written)
    pass_hours(ledger, 2)
    poll(ledger, api_settings, "production", own)
    assert (drain(), mlflow.written) == (0, before)
    assert sendings(ledger)[1:] == [(1, "SUCCEEDED", 1)]


@pytest.mark.parametrize("why", ["a newer audit", "written to no more", "the version is gone", "its tenant is deleted"])
def test_what_nobody_waits_for_is_not_told_again(
    audited: Callable[[], None],
    api: TestClient,
    ledger: Ledger,
    drain: Drain,
    api_settings: Settings,
    mlflow: Registry,
    why: str,
) -> None:
    audited()
    send_out(ledger, api_settings)
    own = api_settings.registries.by_name["production"]
    if why == "the version is gone":
        del mlflow.versions["chat", "2"]
        drain()
    else:
        with ledger.begin() as session:
            session.execute(
                text("""UPDATE runs SET state = 'FAILED', error = '{"code": "attempts_exhausted"}', finished_at = now()
                        WHERE kind = 'deliver'""")
            )
    if why == "a newer audit":
        newer = {"candidate": "mlflow:chat/2", "reference": "mlflow:chat/1", "prompt_set": "hh-harmless-128"}
        second = api.post("/v1/audits", json=newer).json()["id"]
        api.post(f"/v1/audits/{second}/cancel")
        with ledger.begin() as session:
            session.execute(
                text("""INSERT INTO registry_versions (registry, model, version, rule, tenant, audit_id)
                        VALUES ('production', 'chat', '2', 'other', 'default', :audit)"""),
                {"audit": second},
            )
    elif why == "written to no more":
        own = own.model_copy(update={"write_back": False})
    elif why == "its tenant is deleted":
        with ledger.begin() as session:
            session.execute(
                text(
                    "INSERT INTO deleted_tenants (digest) VALUES (encode(sha256(convert_to('default', 'UTF8')), 'hex'))"
                )
            )
    assert [state for _, state, _ in sendings(ledger)] == ["FAILED"]
    pass_hours(ledger, 2)
    assert tell_again(ledger, api_settings, "production", own) == 0
    assert len(sendings(ledger)) == 1


def test_the_refusal_of_a_version_is_told_again_too(
    api: TestClient, ledger: Ledger, made: Callable[[], int], api_settings: Settings, drain: Drain, mlflow: Registry
) -> None:
    mlflow.aliases["chat", "champion"] = "2"
    api.post("/v1/integrations/mlflow", **events.created())
    made()
    with ledger.begin() as session:
        session.execute(
            text("""UPDATE runs SET state = 'FAILED', error = '{"code": "attempts_exhausted"}', finished_at = now()
                    WHERE kind = 'deliver'""")
        )
    pass_hours(ledger, 2)
    own = api_settings.registries.by_name["production"]
    assert [tell_again(ledger, api_settings, "production", own) for _ in range(2)] == [1, 0]
    drain()
    assert mlflow.tags("chat", "2")["spinal.state"] == "REFUSED"


def test_a_poll_finds_what_was_never_told_and_leaves_the_past_alone(
    api: TestClient, ledger: Ledger, api_settings: Settings, mlflow: Registry, models: Path
) -> None:
    mlflow.page = 1
    own = api_settings.registries.by_name["production"]
    assert poll(ledger, api_settings, "production", own) == 0
    assert {version["state"] for version in versions(api)} == {"past"}
    mlflow.register("chat", "3", f"{models}/dpo-short")
    mlflow.register("chat", "4", f"{models}/dpo-short", status="PENDING_REGISTRATION")
    assert [poll(ledger, api_settings, "production", own) for _ in range(2)] == [1, 0]
    waiting = [version["version"] for version in versions(api) if version["state"] == "waiting"]
    assert waiting == ["3"]
    # The registry tells of it after all, and of one that was there before.
    told = [api.post("/v1/integrations/mlflow", **events.created(version=each)).json() for each in "32"]
    assert [each["versions"][0]["fresh"] for each in told] == [False, True]
    [registry] = [each for each in api.get("/v1/integrations").json()["items"] if each["name"] == "production"]
    assert registry["polled_at"] is not None
    assert registry["versions"] == {"past": 1, "waiting": 2}


def test_the_past_is_audited_where_the_operator_says_so(
    ledger: Ledger, api_settings: Settings, api: TestClient
) -> None:
    own = api_settings.registries.by_name["production"].model_copy(update={"backfill": True})
    assert poll(ledger, api_settings, "production", own) == 2
    assert {version["state"] for version in versions(api)} == {"waiting"}


def test_a_poll_that_fails_is_told_and_the_next_one_is_still_the_first(
    ledger: Ledger, api_settings: Settings, api: TestClient, mlflow: Registry
) -> None:
    own = api_settings.registries.by_name["production"]
    mlflow.instead[f"{API}/model-versions/search"] = says(b"", 500)
    assert poll(ledger, api_settings, "production", own) == 0
    [registry] = [each for each in api.get("/v1/integrations").json()["items"] if each["name"] == "production"]
    assert (registry["polled_at"], registry["poll_problem"]["code"]) == (None, "source_unavailable")
    mlflow.instead.clear()
    assert poll(ledger, api_settings, "production", own) == 0
    assert {version["state"] for version in versions(api)} == {"past"}


def test_a_poll_of_a_hub_finds_the_commits_of_repositories_that_rules_name(
    ledger: Ledger, api_settings: Settings, api: TestClient, hub: Hub
) -> None:
    own = api_settings.registries.by_name["hub"]
    rule = own.rules[0].model_copy(update={"model": "acme/chat"})
    own = own.model_copy(update={"rules": (rule,)})
    assert poll(ledger, api_settings, "hub", own) == 0
    commit = hub.repositories["acme/chat"].commit(BUNDLED / "dpo-short")
    assert poll(ledger, api_settings, "hub", own) == 1
    told = api.post("/v1/integrations/huggingface", **events.pushed("acme/chat", commit)).json()
    assert told["versions"][0]["fresh"] is False


def test_one_of_many_processes_polls(ledger: Ledger, api_settings: Settings, mlflow: Registry) -> None:
    for _ in range(3):
        poll_those_due(ledger, api_settings, new_id())
    # One for each registry of MLflow.
    assert sum("registered-models/search" in each for each in mlflow.asked) == 2


def test_registries_of_others_are_not_there(api: TestClient) -> None:
    listed = api.get("/v1/integrations", params={"limit": 2}).json()
    rest = api.get(listed["next"] if listed["next"].startswith("/") else f"/v1/integrations?cursor={listed['next']}")
    names = [each["name"] for each in [*listed["items"], *rest.json()["items"]]]
    assert names == ["ci", "hub", "production"]
    api.post("/v1/integrations/mlflow", **events.created(secret="a secret of others"))
    answer = api.get("/v1/integrations/of-others/versions")
    assert (answer.status_code, answer.json()["code"]) == (404, "registry_not_found")
    assert answer.json()["detail"] == api.get("/v1/integrations/none/versions").json()["detail"].replace(
        "none", "of-others"
    )


def test_versions_are_listed_page_by_page(api: TestClient) -> None:
    for number in range(2, 7):
        api.post("/v1/integrations/mlflow", **events.created(version=str(number)))
    seen, cursor = [], None
    while True:
        page = api.get(
            "/v1/integrations/production/versions", params={"limit": 2} | ({"cursor": cursor} if cursor else {})
        )
        seen += [each["version"] for each in page.json()["items"]]
        cursor = page.json()["next"]
        if cursor is None:
            break
    assert seen == ["6", "5", "4", "3", "2"]
    assert api.get("/v1/integrations/production/versions?state=refused").json()["items"] == []


def test_a_tenant_that_is_deleted_leaves_nothing_and_its_registry_adds_nothing(
    api: TestClient, ledger: Ledger, api_settings: Settings, made: Callable[[], int]
) -> None:
    poll(ledger, api_settings, "of-others", api_settings.registries.by_name["of-others"])
    for tenant in ("a secret of others", SECRET):
        api.post("/v1/integrations/mlflow", **events.created(secret=tenant))
    assert made() == 2
    delete_tenant(ledger, ArtifactStore(api_settings), "others", apply=True)
    late = api.post("/v1/integrations/mlflow", **events.created(secret="a secret of others"))
    assert late.status_code == 404
    with ledger.read() as session:
        for table in ("received_events", "registry_versions", "registry_rules", "audits", "events"):
            of = session.execute(text(f"SELECT count(*) FROM {table} WHERE tenant = 'others'")).scalar_one()
            assert of == 0, table
    assert [version["state"] for version in versions(api)] == ["queued"]


def test_it_goes_on_by_itself(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.integrations.background.ask_for_next", asking.ask_for_next)
    monkeypatch.setattr("service.integrations.background.poll_those_due", poll_those_due)
    with TestClient(create_app(api_settings)) as api:
        until(lambda: api.get("/v1/integrations").json()["items"][-1]["polled_at"], "the first poll")
        api.post("/v1/integrations/mlflow", **events.created(version="2"))
        until(lambda: "queued" in {each["state"] for each in versions(api)}, "the audit")


def test_a_verdict_is_taken_away_before_the_metrics_of_another_audit_are_logged(
    audited: Callable[[], None], ledger: Ledger, drain: Drain, api_settings: Settings, mlflow: Registry
) -> None:
    stale = {"spinal.verdict": "pass", "spinal.digest": "of another", "spinal.audit": "another"}
    mlflow.versions["chat", "2"]["tags"] = [{"key": key, "value": value} for key, value in stale.items()]
    audited()
    # A registry that takes nothing back keeps what stands on it whole.
    mlflow.instead[f"{API}/model-versions/delete-tag"] = says(b"", 503)
    send_out(ledger, api_settings)
    drain()
    assert (mlflow.metrics["run1"], mlflow.tags("chat", "2")) == ({"loss": 0.25}, stale)


def test_nothing_is_written_any_more_where_an_operator_has_switched_it_off(
    audited: Callable[[], None],
    ledger: Ledger,
    drain: Drain,
    api_settings: Settings,
    mlflow: Registry,
    told: Callable[..., None],
) -> None:
    audited()
    send_out(ledger, api_settings)
    told(write_back=False)
    drain()
    assert mlflow.written == []
    with ledger.read() as session:
        assert session.execute(text("SELECT state FROM runs WHERE kind = 'deliver'")).scalar_one() == "CANCELLED"


def test_a_secret_that_cannot_be_read_keeps_no_other_registry_from_being_told(api: TestClient, tmp_path: Path) -> None:
    (tmp_path / "mlflow").unlink()
    theirs = api.post("/v1/integrations/mlflow", **events.created(secret="a secret of others"))
    assert (theirs.status_code, theirs.json().get("registry")) == (202, "of-others")
    own = api.post("/v1/integrations/mlflow", **events.created())
    assert (own.status_code, own.json()["code"]) == (503, "not_ready")


def test_another_event_under_an_id_that_came_before_is_not_taken_for_it(api: TestClient) -> None:
    first = events.generic("version.created", {"model": "chat", "version": "sft"}, id="build-1")
    other = events.generic("version.created", {"model": "chat", "version": "dpo-short"}, id="build-1")
    assert api.post("/v1/integrations/generic", **first).status_code == 202
    answer = api.post("/v1/integrations/generic", **other)
    assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid")
    assert "build-1" in answer.json()["detail"]
    assert api.post("/v1/integrations/generic", **first).json()["repeated"] is True


def test_versions_of_a_registry_that_does_not_answer_keep_no_new_one_waiting(
    api: TestClient, ledger: Ledger, made: Callable[[], int], mlflow: Registry
) -> None:
    for number in range(2, 7):
        api.post("/v1/integrations/mlflow", **events.created(version=str(number)))
    mlflow.instead[f"{API}/model-versions/get"] = says(b"", 503)
    made()
    with ledger.begin() as session:
        session.execute(text("UPDATE registry_versions SET due_at = now() - interval '1 hour'"))
    api.post("/v1/integrations/generic", **events.generic("version.created", {"model": "m", "version": "dpo-short"}))
    with ledger.begin() as session:
        rules = [("production", "default", "chat"), ("ci", "default", "built")]
        due = asking.store.take_due(session, rules, lease_s=60.0)
    assert due is not None
    assert due.key.registry == "ci"


def test_a_version_that_is_no_number_has_none_before_it(
    api_settings: Settings, ledger: Ledger, registries: Registries
) -> None:
    own = registries.by_name["production"]
    rule = own.rules[0].model_copy(update={"reference": "previous"})
    changed = Registries({"production": own.model_copy(update={"rules": (rule,)})})
    settings = api_settings.model_copy(update={"registries": changed})
    with TestClient(create_app(settings)) as api:
        assert api.post("/v1/integrations/mlflow", **events.created(version="\u00b2")).status_code == 202
        with Inspectors(Bounds(children=1), settings.store_of_models()) as inspectors:
            assert asking.ask_for_next(ledger, settings, inspectors, asking.Turns())
        [version] = versions(api)
    assert (version["state"], version["problem"]["code"]) == ("refused", "model_reference_invalid")


def test_events_are_forgotten_whether_their_registry_is_polled_or_not(
    api: TestClient, ledger: Ledger, api_settings: Settings
) -> None:
    api.post("/v1/integrations/generic", **events.generic("ping", {}, id="long-ago"))
    with ledger.begin() as session:
        session.execute(text("UPDATE received_events SET received_at = now() - interval '31 days'"))
    api.post("/v1/integrations/generic", **events.generic("ping", {}, id="now"))
    poll_those_due(ledger, api_settings, new_id())
    with ledger.read() as session:
        assert list(session.execute(text("SELECT delivery FROM received_events")).scalars()) == ["now"]


def test_a_registry_that_became_another_tenants_makes_no_audit_of_what_was_asked_for_before(
    api: TestClient, ledger: Ledger, api_settings: Settings
) -> None:
    api.post("/v1/integrations/mlflow", **events.created())
    own = api_settings.registries.by_name["production"].model_copy(update={"tenant": "others"})
    moved = api_settings.model_copy(update={"registries": Registries({"production": own})})
    with Inspectors(Bounds(children=1), moved.store_of_models()) as inspectors:
        assert not asking.ask_for_next(ledger, moved, inspectors, asking.Turns())
    assert audits(ledger) == 0
