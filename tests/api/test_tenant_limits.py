"""What a tenant may hold and ask, and what a tenant at its limit costs others: nothing."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.audits import store
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.runs.demand import need_runs
from service.runs.settle import settle_audit
from service.settings import Settings
from service.settings_checks import TenantLimits
from service.tenants.counts import count, open_within
from spinal.errors import OpenAuditLimitReached

BODY = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
Call = Callable[..., Any]


@pytest.fixture
def limits() -> dict[str, int]:
    """The limits of the tenant ``ours``; ``theirs`` has those of all."""
    return {"open_audits": 2, "prompt_sets": 2, "idempotency_keys": 2}


@pytest.fixture
def keyed(api_settings: Settings, limits: dict[str, int]) -> Settings:
    own = {"ours": TenantLimits.model_validate(limits)}
    return api_settings.model_copy(
        update={"tenant_limits": own, "auth": "required", "key_pepper": SecretStr("p"), "idempotency_kept_s": 3600.0}
    )


@pytest.fixture
def call(keyed: Settings, ledger: Ledger) -> Iterator[Call]:
    """``call(tenant, method, path, ...)``"""
    with ledger.begin() as session:
        keys = {
            tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper="p")
            for tenant in ("ours", "theirs")
        }
    with TestClient(create_app(keyed), raise_server_exceptions=False) as client:

        def send(tenant: str, method: str, path: str, **options: Any) -> Any:
            headers = {"Authorization": f"Bearer {keys[tenant]}"} | options.pop("headers", {})
            return client.request(method, path, headers=headers, **options)

        yield send


def submit(call: Call, tenant: str, seed: int, **options: Any) -> Any:
    return call(tenant, "POST", "/v1/audits", json=BODY | {"profile": {"seed": seed}}, **options)


def refused(answer: Any, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (429, code), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_open_audits(call: Call, drain: Callable[[], int], ledger: Ledger) -> None:
    keyed = {"headers": {"Idempotency-Key": "first"}}
    first, second = submit(call, "ours", 1, **keyed), submit(call, "ours", 2)
    assert (first.status_code, second.status_code) == (202, 202)
    refused(submit(call, "ours", 3), "open_audit_limit_reached")
    # What opens nothing is not refused: a replay, a question.
    assert submit(call, "ours", 1, **keyed).json()["id"] == first.json()["id"]
    asked = call("ours", "POST", "/v1/audits?validate_only=true", json=BODY | {"profile": {"seed": 3}})
    assert asked.status_code == 200
    assert submit(call, "theirs", 3).status_code == 202
    assert call("ours", "POST", f"/v1/audits/{second.json()['id']}/cancel").status_code == 200
    assert submit(call, "ours", 4).status_code == 202
    refused(submit(call, "ours", 5), "open_audit_limit_reached")
    drain()
    fresh = [submit(call, "ours", seed).status_code for seed in (5, 6)]
    # Nor is what ends at once, since every result exists.
    assert (fresh, submit(call, "ours", 1).status_code) == ([202, 202], 201)
    with ledger.read() as session:
        assert count(session, "ours", "open_audits") == 2


def test_members_of_series_are_open_audits(call: Call) -> None:
    members = [{"step": step, "model": "local:dpo-short"} for step in (1, 2, 3)]
    series = {"reference": "local:sft", "prompt_set": "hh-harmless-64"}
    refused(call("ours", "POST", "/v1/series", json=series | {"members": members}), "open_audit_limit_reached")
    # Nothing was left of it.
    assert call("ours", "GET", "/v1/series").json()["items"] == []
    made = call("ours", "POST", "/v1/series", json=series | {"members": members[:1]})
    assert made.status_code == 201, made.text
    path = f"/v1/series/{made.json()['id']}"
    refused(call("ours", "POST", f"{path}/members", json={"members": members}), "open_audit_limit_reached")
    # What there was room for is there; the same request goes on from it.
    assert call("ours", "GET", path).json()["members"]["total"] == 2
    assert call("ours", "POST", f"{path}/members", json={"members": members[:2]}).status_code == 200
    assert call("ours", "POST", f"{path}/cancel").status_code == 200
    refused(call("ours", "POST", "/v1/series", json=series | {"members": members}), "open_audit_limit_reached")


@pytest.mark.parametrize("shared", [True, False])
def test_fifty_at_once_end_with_exactly_as_many_as_are_allowed(settings: Settings, shared: bool) -> None:
    """Whether they wait for one run or each for its own."""
    ledger = Ledger(settings.model_copy(update={"db_pool_size": 50, "db_pool_timeout_s": 60.0}))
    ended: Counter[str] = Counter()
    start = threading.Barrier(50)

    def write(number: int) -> None:
        spec = {"kind": "trace", "tenant": "ours"} | ({} if shared else {"of": number})
        audit = NewAudit(id=new_id(), tenant="ours", candidate="c")
        start.wait(60)
        try:
            with ledger.begin() as session:
                runs = need_runs(
                    session, {"candidate": spec}, queue_of=lambda _kind: "cpu", priority=0, traceparent=None
                )
                store.insert_audit(session, audit, runs)
                settle_audit(session, audit.id)
                open_within(session, "ours", 10)
            ended["accepted"] += 1
        except OpenAuditLimitReached:
            ended["refused"] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with ledger.read() as session:
        opened = session.execute(text("SELECT count(*) FROM audits WHERE tenant = 'ours'")).scalar_one()
        assert count(session, "ours", "open_audits") == opened == 10
    assert ended == {"accepted": 10, "refused": 40}
    ledger.close()


def test_the_count_of_one_tenant_is_held_from_no_other(ledger: Ledger) -> None:
    """Ours holds its count in a transaction that does not end: theirs opens, and ours itself goes on ending audits."""
    with ledger.begin() as session:
        runs = need_runs(
            session, {"candidate": {"kind": "trace"}}, queue_of=lambda _kind: "cpu", priority=0, traceparent=None
        )
        audit = NewAudit(id=new_id(), tenant="ours", candidate="c")
        store.insert_audit(session, audit, runs)
    with ledger.begin() as held:
        open_within(held, "ours", 10)
        with ledger.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            open_within(session, "theirs", 10)
        with ledger.begin() as session:
            session.execute(text("SET LOCAL lock_timeout = '1s'"))
            assert store.cancel_audit(session, "ours", audit.id)
    with ledger.read() as session:
        assert count(session, "ours", "open_audits") == 0


def test_prompt_sets(call: Call) -> None:
    def push(tenant: str, name: str) -> Any:
        prompts = [{"prompt": f"What is {name} and {n}?"} for n in range(32)]
        return call(tenant, "POST", "/v1/prompt-sets", json={"name": name, "prompts": prompts})

    assert [push("ours", name).status_code for name in ("a", "b", "a")] == [201, 201, 201]
    refused(push("ours", "c"), "prompt_set_limit_reached")
    assert push("theirs", "c").status_code == 201
    # It is stored for others, and was not for ours.
    assert call("ours", "GET", "/v1/prompt-sets/c").status_code == 404


@pytest.mark.parametrize("limits", [{"prompt_bytes": 4000}])
def test_bytes_of_prompt_sets(call: Call) -> None:
    def push(size: int) -> Any:
        return call("ours", "POST", "/v1/prompt-sets", json={"prompts": [{"prompt": "é" * (size // 2)}]})

    assert push(1500).status_code == 201
    assert push(1502).status_code == 201
    refused(push(1504), "prompt_set_limit_reached")
    assert push(200).status_code == 201


@pytest.mark.parametrize("limits", [{"idempotency_keys": 2, "open_audits": 100}])
def test_kept_keys(call: Call, drain: Callable[[], int], ledger: Ledger) -> None:
    def keyed(key: str, seed: int) -> Any:
        return submit(call, "ours", seed, headers={"Idempotency-Key": key})

    def age() -> None:
        with ledger.begin() as session:
            session.execute(text("UPDATE idempotency_keys SET created_at = created_at - interval '2 hours'"))

    first, second = keyed("a", 1), keyed("b", 2)
    assert (first.status_code, second.status_code) == (202, 202)
    # None may be forgotten: each is kept for an hour, and while its audit is open.
    refused(keyed("c", 3), "idempotency_key_limit_reached")
    age()
    refused(keyed("c", 3), "idempotency_key_limit_reached")
    assert keyed("a", 1).json()["id"] == first.json()["id"]
    assert call("ours", "POST", f"/v1/audits/{first.json()['id']}/cancel").status_code == 200
    third = keyed("c", 3)
    assert third.status_code == 202
    # The promise of those that are kept holds.
    assert keyed("b", 2).json()["id"] == second.json()["id"]
    assert keyed("c", 3).json()["id"] == third.json()["id"]
    drain()
    with ledger.read() as session:
        kept = session.execute(text("SELECT key FROM idempotency_keys WHERE tenant = 'ours' ORDER BY key"))
        assert kept.scalars().all() == ["b", "c"]
        assert count(session, "ours", "idempotency_keys") == 2


POLICY = re.compile(r'"requests";q=(\d+);w=60')
LEFT = re.compile(r'"requests";r=(\d+);t=(\d+)')


@pytest.mark.parametrize("limits", [{"requests_per_minute": 5}])
def test_requests(call: Call) -> None:
    answers = [call("ours", "GET", path) for path in ("/v1/audits", "/v1/nothing", f"/v1/audits/{new_id()}")]
    # Every answer to somebody who is known says what is left, refusals among them.
    told = [LEFT.fullmatch(answer.headers.get("RateLimit", "")) for answer in answers]
    assert [None if match is None else int(match[1]) for match in told] == [4, None, 3]
    last = [call("ours", "GET", "/v1/audits") for _ in range(4)]
    refused(last[-1], "request_limit_reached")
    assert [answer.status_code for answer in last[:-1]] == [200, 200, 200]
    for answer in (answers[0], *last):
        policy = POLICY.fullmatch(answer.headers["RateLimit-Policy"])
        assert policy is not None
        assert int(policy[1]) == 5
    assert LEFT.fullmatch(last[-1].headers["RateLimit"])[1] == "0"  # type: ignore[index]  # a match, or the test fails
    assert 1 <= int(last[-1].headers["Retry-After"]) <= 12
    theirs = call("theirs", "GET", "/v1/audits")
    assert (theirs.status_code, POLICY.fullmatch(theirs.headers["RateLimit-Policy"])[1]) == (200, "12000")  # type: ignore[index]  # as above
    stranger = call("theirs", "GET", "/v1/audits", headers={"Authorization": "Bearer spk_1_1"})
    assert (stranger.status_code, "RateLimit" in stranger.headers) == (401, False)


def test_a_priority_above_0_needs_its_scope(keyed: Settings, ledger: Ledger) -> None:
    scopes = {"plain": ("read", "write"), "first": ("read", "write", "priority"), "admin": ("admin",)}
    with ledger.begin() as session:
        keys = {name: create_key(session, tenant="theirs", scopes=given, pepper="p") for name, given in scopes.items()}
    series = {"reference": "local:sft", "prompt_set": "hh-harmless-64"}
    member = {"members": [{"step": 1, "model": "local:dpo-short"}]}
    with TestClient(create_app(keyed), raise_server_exceptions=False) as client:

        def post(key: str, path: str, body: dict[str, Any]) -> Any:
            return client.post(path, json=body, headers={"Authorization": f"Bearer {keys[key]}"})

        for path, body in (("/v1/audits", BODY), ("/v1/audits?validate_only=true", BODY), ("/v1/series", series)):
            answers = {key: post(key, path, body | {"priority": 1}) for key in keys}
            assert [answers[key].status_code // 100 for key in ("first", "admin")] == [2, 2], path
            assert answers["plain"].json()["code"] == "forbidden"
            assert "scope 'priority'" in answers["plain"].json()["hint"]
            assert [post("plain", path, body | {"priority": least}).status_code // 100 for least in (0, -1)] == [2, 2]
        # Nor does a series give to others what its owner was given.
        begun = post("first", "/v1/series", series | {"priority": 1}).json()["id"]
        assert post("plain", f"/v1/series/{begun}/members", member).status_code == 403
        assert post("first", f"/v1/series/{begun}/members", member).status_code == 202
        assert post("plain", f"/v1/series/{begun}/members", member).status_code == 200
