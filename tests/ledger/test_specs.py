"""What a specification asks for, and what has to be done before."""

from typing import Any

import pytest

from service.runs.specs import all_needs, compare_spec, depth, needs, spec_digest, trace_spec
from spinal.profile import MeasurementProfile

PROFILE = MeasurementProfile()
TRACES = {
    name: trace_spec(model=f"local:{name}", snapshot="s", prompt_set="p", profile=PROFILE)
    for name in ("reference", "candidate", "control")
}


@pytest.mark.parametrize("control", [None, TRACES["control"]])
def test_a_comparison_needs_the_traces_of_its_sides(control: dict[str, Any] | None) -> None:
    sides = {"reference": TRACES["reference"], "candidate": TRACES["candidate"]}
    spec = compare_spec(**sides, control=control, profile=PROFILE)
    assert (spec["kind"], {trace["kind"] for trace in TRACES.values()}) == ("compare", {"trace"})
    assert needs(spec) == sides | ({} if control is None else {"control": control})
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
