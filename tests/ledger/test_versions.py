"""What the version of a specification stands for: workers claim no run of a newer one than their own."""

from dataclasses import replace
from typing import Annotated
from uuid import UUID

import pytest
from pydantic import Field
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import demand, specs, transitions
from service.runs.kinds import KINDS
from service.runs.specs import compare_spec, newest_version, spec_digest, spec_version, trace_spec
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.profile import Knob, MeasurementProfile

UNRELEASED = Edition(scheme="rfc8785/1", engine="3", scorer="3", since=4)
"""Between the two: what it accepted ends as retired."""
STANDS_FOR = {3: FORMER, 4: UNRELEASED, 5: PRESENT}
"""Version of specifications -> the edition that it began. Whoever changes an edition adds a line, and edits none."""
MEMBERS = {
    "trace": {"scheme", "kind", "model", "snapshot", "files", "prompt_set", "profile", "engine_version"},
    "compare": {"scheme", "kind", "needs", "scorer_version", "profile"},
}


def test_an_edition_is_never_edited() -> None:
    assert {
        3: Edition(scheme="python-json/1", engine="2", scorer="2", since=3),
        4: Edition(scheme="rfc8785/1", engine="3", scorer="3", since=4),
        5: Edition(scheme="rfc8785/1", engine="4", scorer="4", since=5),
    } == STANDS_FOR
    assert all(edition.since == version for version, edition in STANDS_FOR.items())


def test_a_specification_says_what_workers_know() -> None:
    """A member that is added, and not left out where it says nothing, makes all stored work another."""
    trace = trace_spec(model="m", snapshot="s", files="f", prompt_set="p", profile=MeasurementProfile())
    compare = compare_spec({"reference": trace, "candidate": trace}, profile=MeasurementProfile())
    assert {"trace": set(trace), "compare": set(compare)} == MEMBERS
    assert trace["profile"] == compare["profile"] == {"name": MeasurementProfile().name}
    assert spec_version(trace) == spec_version(compare) == 5
    # A worker that does not look at what was signed takes no run for which that is asked.
    signed = trace | {"signed": {"files": {}, "key": "k"}}
    assert spec_version(signed) == spec_version(compare | {"needs": {"reference": trace, "candidate": signed}}) == 6
    assert newest_version() == 6


class Later(MeasurementProfile):
    """A profile of later code, with a knob for each stage."""

    depth_of_field: Annotated[int, Field(ge=0), Knob("trace", since=6)] = 3
    patience: Annotated[float, Knob("compare", since=7)] = 0.5


def test_a_knob_that_is_set_asks_for_workers_that_know_it_and_one_left_alone_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(profile: MeasurementProfile) -> tuple[dict[str, object], dict[str, object]]:
        trace = trace_spec(model="m", snapshot="s", files="f", prompt_set="p", profile=profile)
        return trace, compare_spec({"reference": trace, "candidate": trace}, profile=profile)

    before = made(MeasurementProfile(max_tokens=64, seed=2))
    monkeypatch.setattr(specs, "MeasurementProfile", Later)
    assert newest_version() == 7
    # Nothing that is stored becomes another.
    after = made(Later(max_tokens=64, seed=2))
    assert [spec_digest(spec) for spec in after] == [spec_digest(spec) for spec in before]
    assert [spec_version(spec) for spec in after] == [5, 5]
    assert [spec_version(spec) for spec in made(Later(depth_of_field=1))] == [6, 6]
    assert [spec_version(spec) for spec in made(Later(patience=0.1))] == [5, 7]


def test_work_that_the_release_before_accepted_is_of_its_version() -> None:
    profile = MeasurementProfile(name="spinal/1")
    trace = {"kind": "trace", "profile": profile.model_dump(mode="json", include={"name", *profile.known_before()})}
    assert spec_version(trace) == spec_version({"kind": "compare", "reference": trace, "candidate": trace}) == 3


def test_workers_from_before_a_profile_has_its_name_leave_its_work_alone() -> None:
    """Whatever release accepted it: also where a specification names no scheme."""
    for name, version in (("spinal/1", 3), ("spinal/2", 5)):
        assert spec_version({"kind": "trace", "profile": {"name": name}}) == version


def test_prompts_that_the_release_before_would_read_in_part_are_read_by_workers_of_this_one_alone() -> None:
    """Every specification of this release asks for a version that only its own workers know, whatever it reads."""
    trace = trace_spec(model="m", snapshot="s", files="f", prompt_set="p", profile=MeasurementProfile(name="spinal/1"))
    assert spec_version(trace) > UNRELEASED.since > FORMER.since


def test_a_run_is_claimed_by_its_own_version_and_by_later_ones(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    with ledger.begin() as session:
        run = demand.find_or_create_run(session, {"kind": "trace", "n": "x"}, queue="cpu")

    def claim() -> transitions.Claim | None:
        with ledger.begin() as session:
            return transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)

    trace = KINDS["trace"]
    monkeypatch.setitem(KINDS, "trace", replace(trace, version=2))
    assert claim() is None
    monkeypatch.setitem(KINDS, "trace", replace(trace, version=trace.version + 1))
    assert claim() is not None


def test_workers_from_before_the_table_leave_later_kinds_alone() -> None:
    """They know runs by their version alone, and theirs is 3."""
    assert all(kind.version_of({"kind": name, "scheme": PRESENT.scheme}) > 3 for name, kind in KINDS.items())


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
