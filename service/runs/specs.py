"""Specifications of runs: what is to be done, as JSON whose digest is the identity of the work."""

from typing import Any

from spinal.documents.canonical import digest_of
from spinal.documents.comparison import SCORER_VERSION
from spinal.documents.trace import ENGINE_VERSION
from spinal.profile import COMPARISON_FIELDS, MeasurementProfile

SPEC_VERSION = 3
"""Grows with everything that changes what a specification asks for: its members, the knobs of a profile, the engine's
or the scorer's version. A worker claims no run of a newer version than its own
(``tests/ledger/test_versions.py`` holds what this number stands for)."""


SIDES = ("reference", "candidate", "control")
"""Members of a comparison's specification that are the specifications of its traces."""


def trace_spec(*, model: str, snapshot: str, prompt_set: str, profile: MeasurementProfile) -> dict[str, Any]:
    """Measure the checkpoint ``model`` (a reference) as its files were at ``snapshot``. Knobs that act only on
    comparisons are left out: changing them never traces anew."""
    return {
        "kind": "trace",
        "model": model,
        "snapshot": snapshot,
        "prompt_set": prompt_set,
        "profile": profile.model_dump(mode="json", exclude=set(COMPARISON_FIELDS)),
        "engine_version": ENGINE_VERSION,
    }


def compare_spec(
    *,
    reference: dict[str, Any],
    candidate: dict[str, Any],
    control: dict[str, Any] | None,
    profile: MeasurementProfile,
) -> dict[str, Any]:
    """Compare the traces of two trace specifications, and of a control, under every knob of ``profile``."""
    return {
        "kind": "compare",
        "reference": reference,
        "candidate": candidate,
        "control": control,
        "scorer_version": SCORER_VERSION,
        "profile": profile.model_dump(mode="json"),
    }


def needs(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specifications of the runs that have to be done before, by the name under which their results are used.
    A specification says so in its member ``needs``; comparisons of version 3 name their sides one by one."""
    if "needs" in spec:
        found: dict[str, dict[str, Any]] = spec["needs"]
        return found
    return {side: spec[side] for side in SIDES if isinstance(spec.get(side), dict)}


def all_needs(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Everything that has to be done before, needs of needs included, by digest."""
    found: dict[str, dict[str, Any]] = {}
    for needed in needs(spec).values():
        found |= {spec_digest(needed): needed} | all_needs(needed)
    return found


def depth(spec: dict[str, Any]) -> int:
    """How many runs have to be done one after the other before: 0 where nothing is needed."""
    return 1 + max((depth(needed) for needed in needs(spec).values()), default=-1)


def spec_digest(spec: dict[str, Any]) -> str:
    return digest_of(spec)
