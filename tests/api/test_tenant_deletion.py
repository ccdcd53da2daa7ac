"""A tenant's data are deleted: nothing names it any more, and what others hold is whole, whenever it is cut off."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.app import create_app
from service.database.tables import Record
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.operations import deleted
from service.operations.deletion import delete_tenant
from service.operations.invariants import violations
from service.platform.artifacts import ArtifactStore
from service.prompt_sets.store import keep_prompt_set
from service.runs import transitions
from service.settings import Settings
from spinal.cli.main import main
from spinal.errors import LeaseLost, Unauthorized
from spinal.prompts.sets import PromptSet
from tests.api.conftest import clone
from tests.support.waiting import until

Call = Callable[..., Any]
Drain = Callable[[], int]
PROMPTS = [{"prompt": f"What is {n} and {n}?"} for n in range(32)]
TENANTS = ("theirs", "ours")


@pytest.fixture
def api_settings(settings: Settings, models: Path, request: pytest.FixtureRequest) -> Settings:
    """The same checkpoints under the names of both tenants."""
    for tenant in TENANTS:
        for name in ("sft", "dpo-short"):
            clone(name, models / f"{tenant}-{name}")
    clone("dpo-short", models / "of-both")
    return settings.model_copy(
        update={
            "model_roots": (models,),
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
        keys = {tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper="p") for tenant in TENANTS}
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as client:

        def send(tenant: str, method: str, path: str, **options: Any) -> Any:
            headers = {"Authorization": f"Bearer {keys[tenant]}"} | options.pop("headers", {})
            return client.request(method, path, headers=headers, **options)

        yield send


def fill(call: Call, drain: Drain) -> None:
    """Rows of every kind, in every state, of both tenants; of what both can hold, the same."""
    begun = {tenant: _fill(partial(post, call, tenant), drain, tenant) for tenant in TENANTS}
    for tenant, series in begun.items():
        # Open, under a profile that nobody has measured yet.
        body = pair(tenant) | {"profile": {"seed": 77, "max_tokens": 64}}
        assert post(call, tenant, "/v1/audits", body)["state"] == "QUEUED"
        post(call, tenant, f"/v1/series/{series}/members", {"members": [{"step": 3, "model": f"{tenant}-model"}]})


def post(call: Call, tenant: str, path: str, body: dict[str, Any], key: str | None = None) -> Any:
    answer = call(tenant, "POST", path, json=body, headers={} if key is None else {"Idempotency-Key": key})
    assert answer.status_code < 300, answer.text
    return answer.json()


def pair(tenant: str) -> dict[str, Any]:
    return {"candidate": f"local:{tenant}-dpo-short", "reference": f"{tenant}-model", "prompt_set": f"{tenant}-set"}


def _fill(post: Call, drain: Drain, tenant: str) -> str:
    """Returns the id of its series."""
    post("/v1/prompt-sets", {"name": f"{tenant}-set", "prompts": PROMPTS})
    post(
        "/v1/prompt-sets",
        {"name": f"{tenant}-own", "prompts": [{"prompt": f"only {tenant} asks {n}"} for n in range(3)]},
    )
    model = {"name": f"{tenant}-model", "reference": f"local:{tenant}-sft", "description": f"the base of {tenant}"}
    post("/v1/models", model | {"version": f"{tenant}-1", "aliases": [f"{tenant}-alias"], "labels": {"of": tenant}})
    rule = {"name": f"rule-of-{tenant}", "value": "damage.gap", "bad": "above", "limit": 0.5, "severity": "fail"}
    policy = {"name": f"{tenant}-policy/1", "description": f"the gate of {tenant}", "rules": [rule]}
    post("/v1/policies", policy)
    labelled = {"labels": {"of": tenant, "name": "chat"}, "policy": policy["name"]}
    post("/v1/audits", pair(tenant) | labelled | {"control": f"{tenant}-model"}, key=f"{tenant}-key")
    drain()
    # One that comes after it, and reads it.
    post("/v1/audits", pair(tenant) | labelled | {"candidate": f"{tenant}-model"})
    series = {"reference": f"local:{tenant}-sft", "policy": policy["name"], "labels": {"of": tenant}}
    members = [{"step": step, "model": f"local:{tenant}-dpo-short"} for step in (1, 2)]
    hook = {
        "url": f"https://{tenant}.example/hook",
        "description": f"for {tenant}",
        "filters": {"labels": {"of": tenant}},
    }
    told = post("/v1/webhooks", hook)
    begun = post("/v1/series", series | {"members": members}, key=f"{tenant}-series")
    drain()
    # One delivery that waits; more come of the events, which a dispatcher would send out.
    post(f"/v1/webhooks/{told['id']}/test", {})
    return str(begun["id"])


def naming(session: Session, name: str) -> dict[str, list[str]]:
    """Rows of all tables that there are which say ``name``, whatever the column."""
    tables = session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
    found = {}
    for table in tables:
        rows = session.execute(text(f"SELECT t::text FROM {table} t WHERE t::text ILIKE :name"), {"name": f"%{name}%"})
        if said := list(rows.scalars()):
            found[table] = [row[:300] for row in said]
    return found


def shown(call: Call) -> dict[str, Any]:
    """All that ours reads."""
    found: dict[str, Any] = {}
    for noun in ("audits", "traces", "models", "policies", "series", "prompt-sets", "webhooks"):
        listed = call("ours", "GET", f"/v1/{noun}").json()["items"]
        found[noun] = listed
        if noun == "webhooks":
            found["deliveries"] = [call("ours", "GET", f"/v1/webhooks/{one['id']}/deliveries").json() for one in listed]
        for item in listed:
            links = item.get("links", {})
            for link in ("report", "scores", "diff", "candidate_trace", "document"):
                if links.get(link) and (noun != "audits" or item["state"] == "SUCCEEDED"):
                    answer = call("ours", "GET", links[link])
                    found[links[link]] = (answer.status_code, answer.text)
    return found


def remove(ledger: Ledger, settings: Settings) -> dict[str, int]:
    return delete_tenant(ledger, ArtifactStore(settings), "theirs", apply=True)


SHARED = pytest.mark.parametrize("api_settings", [False, True], ids=["nothing shared", "results shared"], indirect=True)


@SHARED
def test_nothing_names_a_deleted_tenant_and_what_others_hold_is_whole(
    call: Call, drain: Drain, ledger: Ledger, api_settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(call, drain)
    captures = Path(api_settings.artifact_url.removeprefix("file://")) / "captures"
    before, files = shown(call), set(captures.rglob("*.safetensors"))
    assert {f"/v1/audits/{audit['id']}/report" for audit in before["audits"]} & set(before)

    def command(*arguments: str) -> Any:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["spinal", "tenants", *arguments])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == 0
        return json.loads(capsys.readouterr().out)

    told = command("delete", "theirs")
    assert (told["applied"], told["rows"]["audits"], told["rows"]["api_keys"]) == (False, 6, 1)
    assert shown(call) == before
    with ledger.read() as session:
        # The test would see what is left.
        assert set(naming(session, "theirs")) >= {*told["rows"], "runs", "model_versions", "model_aliases"}
    listed = {row["tenant"]: row for row in command("list", "--json")}
    assert (listed["theirs"]["audits"], listed["ours"]["live_keys"]) == (6, 1)
    assert listed["theirs"]["open_audits"] >= 1

    done = command("delete", "theirs", "--apply")
    assert {name: done["rows"][name] for name in ("audits", "series", "api_keys")} == {
        "audits": 6,
        "series": 1,
        "api_keys": 1,
    }
    with ledger.read() as session:
        assert naming(session, "theirs") == {}
        assert violations(session, sha256_of=ArtifactStore(api_settings).sha256) == {}
    assert call("theirs", "GET", "/v1/audits").status_code == 401
    assert shown(call) == before
    assert command("delete", "theirs", "--apply")["rows"] == {}
    # The contents of one set, and what was measured of it: nobody else has them. Ours goes on, and nothing is missing.
    assert done["rows"]["prompt_sets"] == 1
    left = {*captures.rglob("*.safetensors")}
    with ledger.read() as session:
        named = session.execute(text("SELECT capture_uri FROM traces")).scalars().all()
    assert {captures.parent / uri for uri in named} <= left <= files
    drain()
    assert {audit["state"] for audit in shown(call)["audits"]} == {"SUCCEEDED"}


@pytest.mark.parametrize("api_settings", [True], indirect=True)
def test_runs_that_two_share_go_on_in_every_state_and_never_say_who_the_other_was(
    call: Call, drain: Drain, ledger: Ledger, api_settings: Settings
) -> None:
    asked: dict[str, dict[str, Any]] = {}

    def ask(state: str, *tenants: str) -> UUID:
        """The run of an audit that so many ask for; its turn is that of the first, who asked alone when it began."""
        body = {"candidate": "local:of-both", "profile": {"max_tokens": 32 + len(asked)}}
        for tenant in tenants:
            asked.setdefault(state, {})[tenant] = post(call, tenant, "/v1/audits", body)["id"]
            if state in ("running", "failed") and len(asked[state]) == 1:
                begin(run_of(asked[state][tenant]))
        [run] = {run_of(audit) for audit in asked[state].values()}
        return run

    def run_of(audit: str) -> UUID:
        with ledger.read() as session:
            found = session.execute(text("SELECT run_id FROM audit_runs WHERE audit_id = :id"), {"id": audit})
            return UUID(str(found.scalar_one()))

    def begin(run: UUID) -> None:
        with ledger.begin() as session:
            assert transitions.claim(session, run, worker=f"w/{run}", lease_s=60.0, deadline_s=60.0) is not None

    done = ask("done", *TENANTS)
    drain()
    failed = ask("failed", *TENANTS)
    running = ask("running", *TENANTS)
    queued = ask("queued", *TENANTS)
    former = ask("former", *TENANTS)
    with ledger.begin() as session:
        problem = {"code": "c", "detail": "d"}
        transitions.fail(session, failed, 1, problem, retryable=False, max_attempts=1, backoff_s=0.0)
        # Code of the release before asks for a run, and does not say so.
        session.execute(text("UPDATE runs SET tenants = '{theirs}' WHERE id = :id"), {"id": former})
        said = session.execute(text("SELECT id, tenants, turn_of FROM runs")).all()
    assert {row.id for row in said if "theirs" in row.tenants} == {done, failed, running, queued, former}
    assert {failed, running} <= {row.id for row in said if row.turn_of == "theirs"}

    remove(ledger, api_settings)
    with ledger.begin() as session:
        assert naming(session, "theirs") == {}
        assert {tuple(tenants) for tenants in session.execute(text("SELECT tenants FROM runs")).scalars()} == {
            ("ours",)
        }
        assert violations(session) == {}
        # Handed back, a turn that was nobody's is given back to nobody.
        transitions.release(session, running, 1)
        assert naming(session, "theirs") == {}
    drain()
    with ledger.read() as session:
        assert naming(session, "theirs") == {}
    states = {state: call("ours", "GET", f"/v1/audits/{ids['ours']}").json()["state"] for state, ids in asked.items()}
    assert states == {name: "FAILED" if name == "failed" else "SUCCEEDED" for name in asked}


class Died(BaseException):
    """As kill -9: nothing after it is carried out."""


class Dying(Ledger):
    """Commits so many transactions and no more."""

    left = 0

    @contextmanager
    def begin(self) -> Iterator[Session]:
        if self.left <= 0:
            raise Died
        with super().begin() as session:
            yield session
        self.left -= 1


@pytest.mark.parametrize("api_settings", [True], indirect=True)
def test_it_may_be_killed_behind_every_transaction_and_goes_on(
    call: Call, drain: Drain, ledger: Ledger, api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(call, drain)
    before = shown(call)
    monkeypatch.setattr(deleted, "BATCH", 1)
    dying, deaths = Dying(api_settings), 0
    while True:
        deaths += 1
        # Later each time: in between every call finds what is left.
        dying.left = 2 + deaths
        try:
            remove(dying, api_settings)
            break
        except Died:
            with ledger.read() as session:
                assert violations(session) == {}
            assert call("theirs", "GET", "/v1/audits").status_code == 401
    dying.close()
    assert deaths > 5
    assert shown(call) == before
    with ledger.read() as session:
        assert naming(session, "theirs") == {}


def test_a_worker_that_ends_a_run_of_the_tenant_at_that_moment_has_lost_it(
    call: Call, drain: Drain, ledger: Ledger, api_settings: Settings
) -> None:
    body = {"candidate": "local:theirs-dpo-short", "prompt_set": "hh-harmless-64"}
    assert call("theirs", "POST", "/v1/audits", json=body).status_code == 202
    with ledger.begin() as session:
        [run] = session.execute(text("SELECT id FROM runs")).scalars()
        claim = transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)
    assert claim is not None
    remove(ledger, api_settings)
    with ledger.begin() as session:
        assert not transitions.heartbeat(session, run, claim.attempt, lease_s=60.0, progress={"of": "theirs"}).alive
    with pytest.raises(LeaseLost), ledger.begin() as session:
        transitions.succeed(session, run, claim.attempt, "0" * 64)
    with ledger.read() as session:
        assert naming(session, "theirs") == {}


def test_a_request_that_was_admitted_before_leaves_nothing(call: Call, ledger: Ledger, api_settings: Settings) -> None:
    """One that is writing is waited for, and what it wrote goes; one that writes later is refused."""
    prompts = PromptSet(prompts=("a", "b"), continuations=(None, None), name="theirs-late")
    done: list[dict[str, int]] = []
    deleting = threading.Thread(target=lambda: done.append(remove(ledger, api_settings)))
    with ledger.begin() as session:
        keep_prompt_set(session, "theirs", prompts)
        deleting.start()
        until(lambda: call("theirs", "GET", "/v1/audits").status_code == 401, "the keys to end")
        assert done == []
    deleting.join(60)
    assert done[0]["tenant_prompt_sets"] == 1
    with pytest.raises(Unauthorized), ledger.begin() as session:
        keep_prompt_set(session, "theirs", prompts)
    with ledger.read() as session:
        assert naming(session, "theirs") == {}
    # An operator who makes a key begins anew.
    with ledger.begin() as session:
        create_key(session, tenant="theirs", scopes=("read",), pepper="p")
    with ledger.begin() as session:
        keep_prompt_set(session, "theirs", prompts)


KNOWN = {"tenants", "turn_of"}
"""Columns that name tenants under other names than ``tenant``: of runs, which deletion sees to."""


def test_deletion_knows_every_column_that_names_a_tenant(ledger: Ledger) -> None:
    with ledger.read() as session:
        rows = session.execute(
            text("""SELECT table_name, column_name FROM information_schema.columns
                    WHERE table_schema = 'public' AND column_name LIKE '%tenant%'""")
        ).all()
    found = {row.table_name for row in rows if row.column_name == "tenant"}
    assert found == {*deleted.IN_ORDER, *deleted.plain_tables()}
    assert {row.column_name for row in rows} <= {"tenant", *KNOWN}
    # What has no tenant of its own goes with something that has, or is shared.
    assert set(Record.metadata.tables) - found == {
        "audit_runs", "chores", "comparisons", "deleted_tenants", "delivery_tries", "installation", "model_aliases",
        "model_versions", "prompt_sets", "run_attempts", "run_dependencies", "runs", "series_members", "snapshots",
        "trace_layers", "traces", "weights_files", "workers",
    }  # fmt: skip
