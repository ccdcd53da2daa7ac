"""What ``SPEC_VERSION`` stands for: whoever changes what a specification asks for has to raise it."""

import json
from dataclasses import replace
from hashlib import sha256
from uuid import UUID

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import demand, specs, transitions
from service.runs.kinds import KINDS
from service.runs.specs import SPEC_VERSION, compare_spec, trace_spec
from spinal.documents.comparison import SCORER_VERSION
from spinal.documents.trace import ENGINE_VERSION
from spinal.profile import MeasurementProfile

STANDS_FOR = {3: "3400f29ff2779ab4"}
"""SPEC_VERSION -> what its specifications can say. On failure: raise SPEC_VERSION and add its line; never edit one."""


def test_the_version_grows_with_what_a_specification_can_say() -> None:
    profile = MeasurementProfile()
    trace = trace_spec(model="m", snapshot="s", prompt_set="p", profile=profile)
    compare = compare_spec(reference=trace, candidate=trace, control=None, profile=profile)
    says = {
        "trace": sorted(trace),
        "compare": sorted(compare),
        "knobs": MeasurementProfile.model_json_schema()["properties"],
        "engine": ENGINE_VERSION,
        "scorer": SCORER_VERSION,
    }
    found = sha256(json.dumps(says, sort_keys=True).encode()).hexdigest()[:16]
    assert STANDS_FOR[SPEC_VERSION] == found


def test_a_run_is_claimed_by_its_own_version_and_by_later_ones(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger.begin() as session:
        run = demand.find_or_create_run(session, {"kind": "trace", "n": "x"}, queue="cpu")

    def claim() -> transitions.Claim | None:
        with ledger.begin() as session:
            return transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)

    trace = KINDS["trace"]
    monkeypatch.setitem(KINDS, "trace", replace(trace, version=trace.version - 1))
    assert claim() is None
    monkeypatch.setitem(KINDS, "trace", replace(trace, version=trace.version + 1))
    assert claim() is not None


def test_workers_from_before_the_table_leave_later_kinds_alone() -> None:
    """They know runs by their version alone, and theirs is 3."""
    first = {name for name, kind in KINDS.items() if kind.version <= 3}
    assert first <= {"trace", "compare"}


def test_code_from_before_versions_inserts_runs_that_everyone_claims(ledger: Ledger) -> None:
    """During an upgrade the previous API still writes, without naming the new column."""
    run = UUID(int=7)
    with ledger.begin() as session:
        session.execute(
            text("""INSERT INTO runs (id, kind, spec, spec_digest, queue, priority)
                    VALUES (:id, 'trace', '{}', :digest, 'cpu', 0)"""),
            {"id": run, "digest": specs.spec_digest({"kind": "trace"})},
        )
    with ledger.begin() as session:
        assert transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0) is not None
