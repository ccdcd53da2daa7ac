"""Work that other releases accepted: done as they would have done it, or ended with that as its reason."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.operations.invariants import violations
from service.prompt_sets.store import store_prompt_set
from service.runs.demand import need_runs
from service.runs.specs import compare_spec, trace_spec
from service.traces.store import load_comparison_document
from spinal.checkpoints.identity import content_snapshot, former_snapshot
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.editions import FORMER
from spinal.documents.evidence import PairEvidence
from spinal.documents.later import OF_COMPARISONS
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from tests.support import engine_double

PROMPTS = builtin_prompts("hh-harmless-64")
MODELS = {"reference": "local:sft", "candidate": "local:dpo-short"}


def carried_out(ledger: Ledger, drain: Callable[[], int], specs: dict[str, Any]) -> dict[str, Any]:
    """The rows of the runs afterwards, by role."""
    with ledger.begin() as session:
        store_prompt_set(session, PROMPTS)
        runs: dict[str, UUID] = need_runs(session, specs, queue_of=lambda _kind: "cpu", priority=0, traceparent=None)
    drain()
    with ledger.read() as session:
        rows = {row.id: row for row in session.execute(text("SELECT *, error->>'code' AS code FROM runs"))}
    return {role: rows[run] for role, run in runs.items()}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[MeasurementProfile]:
    """The profiles under which the engine gathered evidence."""
    profiles: list[MeasurementProfile] = []

    def watched(*sides: Any, profile: MeasurementProfile, **options: Any) -> PairEvidence:
        profiles.append(profile)
        return gather(*sides, profile=profile, **options)

    gather = engine_double.gather_evidence
    monkeypatch.setattr(engine_double, "gather_evidence", watched)
    return profiles


def test_what_the_release_before_accepted_has_no_accounts_and_no_more_than_that_knew(
    api: TestClient, ledger: Ledger, drain: Callable[[], int], models: Path, asked: list[MeasurementProfile]
) -> None:
    profile = MeasurementProfile(name="spinal/1", bootstrap_draws=200)
    known = {"name", *profile.known_before()}
    (models / "dpo-short" / "generation_config.json").write_text('{"temperature": 0.5}')
    specs: dict[str, Any] = {
        role: {
            "kind": "trace", "model": model, "prompt_set": PROMPTS.digest, "engine_version": FORMER.engine,
            "snapshot": former_snapshot(resolve_reference(model, roots=[models])),
            "profile": profile.model_dump(mode="json", include=known & {"name", *profile.knobs("trace")}),
        }
        for role, model in MODELS.items()
    }  # fmt: skip
    specs["compare"] = {
        "kind": "compare", **specs, "control": None, "scorer_version": FORMER.scorer,
        "profile": profile.model_dump(mode="json", include=known),
    }  # fmt: skip
    rows = carried_out(ledger, drain, specs)
    assert {(row.state, row.spec_version) for row in rows.values()} == {("SUCCEEDED", FORMER.since)}
    assert [(each.name, each.stitch_prompts) for each in asked] == [("spinal/1", 0)]
    with ledger.read() as session:
        stored = session.execute(text("SELECT document, later FROM comparisons")).one()
        traces = session.execute(text("SELECT document FROM traces")).scalars().all()
        assert violations(session) == {}
    assert stored.later == {}
    assert not stored.document.keys() & {name for name, below in OF_COMPARISONS.items() if below is None}
    for document in (*traces, stored.document):
        assert document["profile"].keys() - {"fingerprint", "comparison_fingerprint"} <= known


def test_what_this_release_accepts_has_accounts_under_either_profile(
    api: TestClient, ledger: Ledger, drain: Callable[[], int], asked: list[MeasurementProfile]
) -> None:
    for name in ("spinal/1", "spinal/2"):
        body = {**MODELS, "prompt_set": PROMPTS.name, "profile": {"name": name, "bootstrap_draws": 200}}
        assert api.post("/v1/audits", json=body).status_code == 202
        drain()
    assert [each.name for each in asked] == ["spinal/1", "spinal/2"]
    assert all(each.stitch_prompts > 0 for each in asked)


def test_what_came_between_two_releases_ends_as_retired(
    api: TestClient, ledger: Ledger, drain: Callable[[], int], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names a scheme, like work of today, and versions that nobody runs any more."""
    profile = MeasurementProfile(name="spinal/1")
    specs: dict[str, Any] = {
        role: trace_spec(
            model=model, snapshot="s", files="f", prompt_set=PROMPTS.digest, profile=profile
        ) | {"engine_version": "3"}
        for role, model in MODELS.items()
    }  # fmt: skip
    specs["compare"] = compare_spec(dict(specs), profile=profile) | {"scorer_version": "3"}
    rows = carried_out(ledger, drain, specs)
    assert {role: (row.state, row.code) for role, row in rows.items()} == {
        "reference": ("FAILED", "version_retired"), "candidate": ("FAILED", "version_retired"),
        "compare": ("FAILED", "dependency_failed"),
    }  # fmt: skip


def test_a_comparison_whose_traces_were_made_between_two_releases_ends_as_retired(
    api: TestClient, ledger: Ledger, drain: Callable[[], int], models: Path
) -> None:
    profile = MeasurementProfile(name="spinal/1")
    specs: dict[str, Any] = {
        role: trace_spec(
            model=model, snapshot=content_snapshot(resolve_reference(model, roots=[models])), files=role,
            prompt_set=PROMPTS.digest, profile=profile,
        )
        for role, model in MODELS.items()
    }  # fmt: skip
    specs["compare"] = compare_spec(dict(specs), profile=profile) | {"scorer_version": "3"}
    rows = carried_out(ledger, drain, specs)
    assert {role: (row.state, row.code) for role, row in rows.items()} == {
        "reference": ("SUCCEEDED", None), "candidate": ("SUCCEEDED", None), "compare": ("FAILED", "version_retired"),
    }  # fmt: skip


def test_what_stands_apart_is_held_to_the_digest_of_the_whole(
    api: TestClient, ledger: Ledger, drain: Callable[[], int]
) -> None:
    assert api.post("/v1/audits", json={**MODELS, "prompt_set": PROMPTS.name}).status_code == 202
    drain()
    with ledger.read() as session:
        stored = session.execute(text("SELECT digest, later FROM comparisons")).one()
        whole = load_comparison_document(session, stored.digest)
        assert violations(session) == {}
    assert whole is not None
    for later, offenders in (
        ({}, [stored.digest]),
        (stored.later | {"unchanged_blocks": [1]}, [stored.digest]),
        (stored.later | {"layers": {"0": 7}}, [stored.digest]),
        (stored.later, []),
    ):
        with ledger.begin() as session:
            session.execute(text("ALTER TABLE comparisons DISABLE TRIGGER ALL"))
            session.execute(text("UPDATE comparisons SET later = CAST(:later AS jsonb)"), {"later": json.dumps(later)})
            session.execute(text("ALTER TABLE comparisons ENABLE TRIGGER ALL"))
        with ledger.read() as session:
            found = violations(session)
        assert found == ({"a comparison's content recomputes to its digest": offenders} if offenders else {})
