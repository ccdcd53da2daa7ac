"""What a specification asks for, and what has to be done before."""

from typing import Any

import pytest

from service.runs.specs import SIDES, all_needs, compare_spec, depth, edition_of, needs, spec_digest, trace_spec
from spinal.documents.editions import FORMER, PRESENT
from spinal.profile import MeasurementProfile

PROFILE = MeasurementProfile()
TRACES = {
    name: trace_spec(model=f"local:{name}", snapshot="s", files="f", prompt_set="p", profile=PROFILE)
    for name in ("reference", "candidate", "control")
}


@pytest.mark.parametrize("control", [None, TRACES["control"]])
def test_a_comparison_needs_the_traces_of_its_sides(control: dict[str, Any] | None) -> None:
    sides = {role: TRACES[role] for role in ("reference", "candidate")}
    sides |= {} if control is None else {"control": control}
    spec = compare_spec(sides, profile=PROFILE)
    assert (spec["kind"], {trace["kind"] for trace in TRACES.values()}) == ("compare", {"trace"})
    assert needs(spec) == sides
    assert (depth(spec), depth(sides["reference"]), needs(sides["reference"])) == (1, 0, {})


def test_a_specification_is_as_deep_as_the_deepest_that_it_needs() -> None:
    shallow = TRACES["control"]
    middle: dict[str, Any] = {"kind": "y", "needs": {"b": TRACES["reference"]}}
    deep: dict[str, Any] = {"kind": "x", "needs": {"a": middle}}
    for needed in ({"one": shallow, "other": deep}, {"one": deep, "other": shallow}):
        spec = {"kind": "z", "needs": needed}
        assert depth(spec) == 3
        below = [shallow, deep, middle, TRACES["reference"]]
        assert all_needs(spec) == {spec_digest(each): each for each in below}


# What e56491c accepted, with the digests that it gave (taken from its ledger).
PROFILE_BEFORE = MeasurementProfile(name="spinal/1")
KNOBS_BEFORE = {"name", *PROFILE_BEFORE.known_before()}
FORMER_TRACE = {
    "kind": "trace",
    "model": "local:sft",
    "snapshot": "s",
    "prompt_set": "p",
    "profile": PROFILE_BEFORE.model_dump(mode="json", include=KNOBS_BEFORE & {"name", *PROFILE_BEFORE.knobs("trace")}),
    "engine_version": "2",
}
FORMER_COMPARE = {
    "kind": "compare",
    "reference": FORMER_TRACE,
    "candidate": FORMER_TRACE | {"model": "local:dpo"},
    "control": None,
    "scorer_version": "2",
    "profile": PROFILE_BEFORE.model_dump(mode="json", include=KNOBS_BEFORE),
}


def test_specifications_of_the_release_before_keep_their_digests_their_needs_and_their_edition() -> None:
    assert spec_digest(FORMER_TRACE) == "1b8cbf5fcfb66c6a08b8b1acee1a2681a6b579256975e876cf4015a180f74207"
    assert spec_digest(FORMER_COMPARE) == "371c230c2ab3c7d49296dce90b80b1a4e1f0eb4e329265d3fb04ad337786bc91"
    assert list(needs(FORMER_COMPARE)) == ["reference", "candidate"]
    assert {edition_of(spec) for spec in (FORMER_TRACE, FORMER_COMPARE)} == {FORMER}
    assert {edition_of(spec) for spec in (TRACES["reference"], compare_spec(TRACES, profile=PROFILE))} == {PRESENT}


def test_what_a_specification_asks_for() -> None:
    profile = MeasurementProfile(max_tokens=64, seed=3)
    trace = trace_spec(model="m", snapshot="s", files="f", prompt_set="p", profile=profile, tenant="t")
    assert trace == {
        "scheme": "rfc8785/1", "kind": "trace", "model": "m", "snapshot": "s", "files": "f", "prompt_set": "p",
        "profile": {"name": PROFILE.name, "max_tokens": 64}, "engine_version": PRESENT.engine, "tenant": "t",
    }  # fmt: skip
    assert compare_spec({"reference": trace}, profile=profile) == {
        "scheme": "rfc8785/1", "kind": "compare", "needs": {"reference": trace},
        "scorer_version": PRESENT.scorer, "profile": {"name": PROFILE.name, "max_tokens": 64, "seed": 3},
    }  # fmt: skip


def test_sides_are_compared_in_the_order_of_the_release_before() -> None:
    assert SIDES == ("reference", "candidate", "control")
    sides = {role: {"kind": "trace", "of": role} for role in ("control", "candidate", "reference")}
    assert list(needs({"kind": "compare", **sides})) == list(SIDES)


def test_work_for_one_tenant_is_shared_with_no_other() -> None:
    def of(tenant: str | None) -> str:
        return spec_digest(
            trace_spec(model="m", snapshot="s", files="f", prompt_set="p", profile=PROFILE, tenant=tenant)
        )

    assert len({of("a"), of("b"), of(None)}) == 3
