"""Two tenants on one service: whatever the one asks, nothing of the other's comes back.

Both audit the same bytes and the same prompts under other names, so that whatever can be shared is. What the one could
learn from are names, folders, hosts, ids, times, and how soon an answer comes.
"""

import json
import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from service.traces import store as traces_store
from tests.api.conftest import clone
from tests.support.engine_double import calls

Drain = Callable[[], int]
Call = Callable[..., Any]
PROMPTS = [{"prompt": f"What is {n} and {n}?"} for n in range(32)]
LONG_AGO = "2020-02-02T02:02:02"


@pytest.fixture
def api_settings(settings: Settings, models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Each tenant has its own folder, in which the same checkpoints have other names."""
    roots = {tenant: (tmp_path / f"{tenant}-folder",) for tenant in ("ours", "theirs")}
    for tenant, (root,) in roots.items():
        root.mkdir()
        for name in ("sft", "dpo-short"):
            clone(name, root / f"{tenant}-{name}")
    return settings.model_copy(
        update={
            "model_roots": (models,),
            "tenant_model_roots": roots,
            "share_results": getattr(request, "param", False),
            "engine": "tests.support.engine_double",
            "backoff_s": 0.0,
            "log_level": "error",
            "auth": "required",
            "key_pepper": SecretStr("p"),
        }
    )


@pytest.fixture
def call(api_settings: Settings, ledger: Ledger) -> Iterator[Call]:
    """``call(tenant, method, path, ...)``"""
    with ledger.begin() as session:
        keys = {
            tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper="p")
            for tenant in ("ours", "theirs")
        }
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as client:

        def send(tenant: str, method: str, path: str, **options: Any) -> Any:
            headers = {"Authorization": f"Bearer {keys[tenant]}"} | options.pop("headers", {})
            return client.request(method, path, headers=headers, **options)

        yield send


def pair(tenant: str) -> dict[str, Any]:
    return {"candidate": f"local:{tenant}-dpo-short", "reference": f"local:{tenant}-sft", "prompt_set": f"{tenant}-set"}


def prepare(call: Call, tenant: str) -> str:
    """A tenant's prompts, models and an audit of each shape, submitted; returns the id of the pair's."""
    made = call(tenant, "POST", "/v1/prompt-sets", json={"name": f"{tenant}-set", "prompts": PROMPTS})
    assert made.status_code in (200, 201), made.text
    model: dict[str, Any] = {
        "name": f"{tenant}-model",
        "reference": f"local:{tenant}-sft",
        "description": f"the base of {tenant}",
    }
    model |= {"version": f"{tenant}-1", "aliases": [f"{tenant}-alias"], "labels": {"of": tenant}}
    assert call(tenant, "POST", "/v1/models", json=model).status_code == 201
    rule = {"name": f"rule-of-{tenant}", "value": "damage.gap", "bad": "above", "limit": 0.5, "severity": "fail"}
    policy = {"name": f"{tenant}-policy/1", "description": f"the gate of {tenant}", "rules": [rule]}
    assert call(tenant, "POST", "/v1/policies", json=policy).status_code == 201
    own = {"labels": {"of": tenant, "name": "chat"}, "policy": policy["name"]}
    body = pair(tenant) | own | {"control": f"{tenant}-model"}
    accepted = call(tenant, "POST", "/v1/audits", json=body)
    alone = call(tenant, "POST", "/v1/audits", json={"candidate": f"{tenant}-model", "prompt_set": f"{tenant}-set"})
    assert (accepted.status_code, alone.status_code) == (202, 202), accepted.text + alone.text
    series = {"reference": f"local:{tenant}-sft", "policy": policy["name"], "labels": {"of": tenant}}
    assert call(tenant, "POST", "/v1/series", json=series).status_code == 201
    return str(accepted.json()["id"])


def of_the_former_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows as code from before stored them: with names, host and time."""

    def dated(document: Any) -> Any:
        told = {"created_at": LONG_AGO, "hostname": "theirs-host", "command": ["theirs-worker", "run:theirs"]}
        return document.model_copy(update={"provenance": document.provenance.model_copy(update=told)})

    monkeypatch.setattr(traces_store, "unnamed_trace", dated)
    monkeypatch.setattr(traces_store, "unnamed_comparison", dated)


@pytest.fixture
def both(
    call: Call, drain: Drain, ledger: Ledger, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """They came first; what is known of each tenant afterwards."""
    if getattr(request, "param", False):
        of_the_former_release(monkeypatch)
    known: dict[str, Any] = {}
    for tenant in ("theirs", "ours"):
        audit = prepare(call, tenant)
        drain()
        shown = call(tenant, "GET", f"/v1/audits/{audit}").json()
        assert shown["state"] == "SUCCEEDED", shown
        known[tenant] = shown
    with ledger.read() as session:
        runs = session.execute(
            text("""SELECT a.tenant, CAST(r.id AS text) AS id FROM runs r JOIN audit_runs x ON x.run_id = r.id
                    JOIN audits a ON a.id = x.audit_id""")
        ).all()
    known["runs"] = {tenant: {run.id for run in runs if run.tenant == tenant} for tenant in ("ours", "theirs")}
    return known


def values(known: dict[str, Any], call: Call) -> list[str]:
    """What may be given for any parameter: all that the one could know or guess of the other."""
    found = ["0" * 64, "hh-harmless-64", "../theirs-folder/theirs-sft", "local:../theirs-folder/theirs-sft", "30"]
    for tenant in ("ours", "theirs"):
        audit = known[tenant]
        found += [audit["id"], audit["candidate"], f"{tenant}-model", f"{tenant}-set", f"of:{tenant}"]
        found += [f"{tenant}-model:{tenant}-1", f"{tenant}-model@{tenant}-alias", f"{tenant}-1", f"{tenant}-alias"]
        found += [
            audit["candidate_trace"],
            audit["reference_trace"],
            audit["comparison"],
            audit["prompt_set"]["digest"],
            *audit["policy"].values(),
        ]
        found += [call(tenant, "GET", "/v1/series").json()["items"][-1]["id"]]
        for listing in ("audits", "traces", "models", "policies", "series"):
            following = call(tenant, "GET", f"/v1/{listing}?limit=1").json()["next"]
            found += [following] if following else []
        found += [call(tenant, "GET", f"/v1/traces/{audit['candidate_trace']}").json()["model"]["weights_digest"]]
        found += sorted(known["runs"][tenant])[:1]
    return list(dict.fromkeys(found))


def requests(
    schema: dict[str, Any], pool: list[str], seed: int, each: int
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every operation of the contract, with any of the values in any of its places."""
    draw = random.Random(seed)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            for _ in range(each):
                filled = path
                query: dict[str, str] = {}
                headers: dict[str, str] = {}
                for parameter in operation.get("parameters", ()):
                    value = draw.choice(pool)
                    if parameter["in"] == "path":
                        filled = filled.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
                    elif draw.random() < 0.4:
                        target = query if parameter["in"] == "query" else headers
                        target[parameter["name"]] = value if parameter["name"] != "wait" else "0"
                options: dict[str, Any] = {"params": query, "headers": headers}
                if "requestBody" in operation:
                    names = ("candidate", "reference", "control", "prompt_set", "name", "reference", "policy", "folder")
                    options["json"] = {name: draw.choice(pool) for name in names if draw.random() < 0.6}
                yield method.upper(), filled, options


def told(answer: Any, asked: list[str]) -> str:
    """What an answer says beyond what was asked."""
    said = answer.text + str(dict(answer.headers))
    for own in sorted({*asked, *(quote(each, safe="") for each in asked)}, key=len, reverse=True):
        said = said.replace(own, "")
    return str(said)


FORMER = pytest.mark.parametrize(
    "both", [False, True], ids=["rows of today", "rows of the release before"], indirect=True
)
SHARED = pytest.mark.parametrize("api_settings", [False, True], ids=["nothing shared", "results shared"], indirect=True)


@FORMER
@SHARED
def test_no_answer_tells_of_the_other_tenant(
    call: Call, both: dict[str, Any], tmp_path: Path, ledger: Ledger, api_settings: Settings
) -> None:
    pool = values(both, call)
    theirs = [both["theirs"]["id"], both["theirs"]["created_at"], both["theirs"]["finished_at"], LONG_AGO]
    theirs += [*(both["runs"]["theirs"] - both["runs"]["ours"]), "theirs", socket.gethostname(), str(tmp_path)]
    statuses: Counter[int] = Counter()
    schema = call("ours", "GET", "/openapi.json").json()
    for method, path, options in requests(schema, pool, seed=1, each=40):
        answer = call("ours", method, path, **options)
        statuses[answer.status_code] += 1
        given = [*options.get("json", {}).values(), *options["params"].values(), *options["headers"].values()]
        said = told(answer, [*given, *(each for each in pool if quote(each, safe="") in path)])
        assert [name for name in theirs if name in said] == [], (method, path, options, answer.text[:2000])
        assert answer.status_code < 500
    # It did reach things.
    assert statuses[200] > 100
    assert statuses[404] > 50


@FORMER
@SHARED
def test_each_reads_its_own_names_in_what_both_hold(call: Call, both: dict[str, Any]) -> None:
    for tenant in ("ours", "theirs"):
        audit = both[tenant]
        assert (audit["policy"]["name"], audit["former"]) == (f"{tenant}-policy/1", None)
        assert audit["candidate_trace"] == both["ours"]["candidate_trace"]
        trace = call(tenant, "GET", audit["links"]["candidate_trace"]).json()
        assert trace["model"]["source"] == f"local:{tenant}-dpo-short"
        assert trace["prompt_set"]["name"] == f"{tenant}-set"
        assert trace["provenance"]["hostname"] is trace["provenance"]["command"] is None
        report = call(tenant, "GET", f"{audit['links']['report']}?format=json").json()
        diff = call(tenant, "GET", audit["links"]["diff"]).json()
        for comparison in (report, diff["comparison"]):
            assert comparison["reference"]["source"] == f"local:{tenant}-sft"
            assert comparison["candidate"]["source"] == f"local:{tenant}-dpo-short"
            assert comparison["control"]["source"] == f"local:{tenant}-sft"
            assert f"local:{tenant}-sft" in comparison["nulls"]["control"]["note"]
            made = datetime.fromisoformat(comparison["provenance"]["created_at"])
            accepted = datetime.fromisoformat(audit["created_at"]).replace(microsecond=0)
            assert accepted <= made <= datetime.now(UTC)
        listed = call(tenant, "GET", "/v1/traces").json()["items"]
        assert {head["source"] for head in listed} == {f"local:{tenant}-dpo-short", f"local:{tenant}-sft"}


@SHARED
def test_what_another_tenant_has_audited_is_known_by_nothing(
    call: Call, drain: Drain, double: Path, api_settings: Settings
) -> None:
    prepare(call, "theirs")
    drain()
    before = len(calls(double))
    prepare(call, "ours")
    body = pair("ours")
    asked = call("ours", "POST", "/v1/audits?validate_only=true", json=body).json()
    assert set(asked["cached"].values()) == {False}
    drain()
    measured = Counter(what for _, what, _ in calls(double)[before:])
    # Results that are shared are not made again; otherwise the same work is done as if nobody had been there.
    assert measured == ({} if api_settings.share_results else {"measure": 2, "compare": 1, "account": 1})
    again = call("ours", "POST", "/v1/audits", json=body | {"control": "ours-model"})
    assert (again.status_code, len(calls(double)) - before) == (201, sum(measured.values()))


def test_a_tenant_with_folders_of_its_own_reads_no_others(call: Call) -> None:
    for tenant, named in (("ours", "local:theirs-sft"), ("ours", "local:sft"), ("theirs", "local:ours-sft")):
        answer = call(tenant, "POST", "/v1/audits", json={"candidate": named})
        assert (answer.status_code, answer.json()["code"]) == (422, "model_not_found"), answer.text
    outside = call("ours", "POST", "/v1/audits", json={"candidate": "local:../theirs-folder/theirs-sft"})
    assert outside.json()["code"] == "model_path_refused"


def test_prompts_are_used_by_those_who_have_them(call: Call) -> None:
    made = call("theirs", "POST", "/v1/prompt-sets", json={"name": "theirs-set", "prompts": PROMPTS}).json()
    for named in (made["digest"], "theirs-set"):
        answer = call("ours", "POST", "/v1/audits", json={"candidate": "local:ours-sft", "prompt_set": named})
        assert (answer.status_code, answer.json()["code"]) == (422, "prompt_set_not_found")


@SHARED
def test_an_audit_that_failed_tells_no_host_and_no_run(
    call: Call, drain: Drain, double: Path, ledger: Ledger, api_settings: Settings
) -> None:
    for tenant in ("theirs", "ours"):
        (double / "fail").write_text("internal_error")
        audit = prepare(call, tenant)
        drain()
        shown = call(tenant, "GET", f"/v1/audits/{audit}")
        assert (shown.json()["state"], shown.json()["error"]["code"]) == ("FAILED", "attempts_exhausted")
        refused = call(tenant, "GET", f"/v1/audits/{audit}/scores")
        with ledger.read() as session:
            known = list(
                session.execute(text("SELECT CAST(id AS text) FROM runs UNION SELECT worker FROM runs")).scalars()
            )
        said = shown.text + refused.text
        assert [name for name in (*known, socket.gethostname()) if name and name in said] == []


SAID_IN_ITS_SETTINGS = {"ours": 0.25, "theirs": 0.75}


@pytest.mark.parametrize("api_settings", [True], indirect=True)
def test_what_lies_beside_shared_weights_is_told_to_its_own_tenant_alone(
    call: Call, drain: Drain, api_settings: Settings, ledger: Ledger
) -> None:
    """The generation configuration is no part of what a checkpoint is: the same weights, another one beside them."""
    found = {}
    for tenant, temperature in SAID_IN_ITS_SETTINGS.items():
        [root] = api_settings.roots_of(tenant)
        (root / f"{tenant}-dpo-short" / "generation_config.json").write_text(json.dumps({"temperature": temperature}))
        audit = prepare(call, tenant)
        drain()
        found[tenant] = call(tenant, "GET", f"/v1/audits/{audit}/scores").json()
        again = call(tenant, "POST", "/v1/audits", json=pair(tenant) | {"control": f"{tenant}-model"})
        assert again.status_code == 201
    for tenant, temperature in SAID_IN_ITS_SETTINGS.items():
        told = {each["key"]: each["candidate"] for each in found[tenant]["settings"] if each["part"] == "generation"}
        assert told["temperature"] == str(temperature)
    with ledger.read() as session:
        # Whatever can be shared is: the traces are of the weights.
        assert session.execute(text("SELECT count(*) FROM traces")).scalar_one() == 2
        assert session.execute(text("SELECT count(*) FROM comparisons")).scalar_one() == 2


@pytest.mark.parametrize("api_settings", [True], indirect=True)
def test_settings_that_changed_after_an_audit_are_those_of_the_next(
    call: Call, drain: Drain, api_settings: Settings
) -> None:
    [root] = api_settings.roots_of("ours")
    told = []
    for temperature in (0.25, 0.75):
        (root / "ours-dpo-short" / "generation_config.json").write_text(json.dumps({"temperature": temperature}))
        audit = prepare_pair(call, "ours")
        drain()
        found = call("ours", "GET", f"/v1/audits/{audit}/scores").json()
        told += [each["candidate"] for each in found["settings"] if each["key"] == "temperature"]
    assert told == ["0.25", "0.75"]


def prepare_pair(call: Call, tenant: str) -> str:
    body = {
        "candidate": f"local:{tenant}-dpo-short",
        "reference": f"local:{tenant}-sft",
        "prompt_set": "hh-harmless-64",
    }
    accepted = call(tenant, "POST", "/v1/audits", json=body)
    assert accepted.status_code == 202, accepted.text
    return str(accepted.json()["id"])
