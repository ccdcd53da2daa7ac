"""Specifications of runs: what is to be done, as JSON whose digest is the identity of the work.

A specification names the scheme of its digest, holds of a profile only what differs from the defaults of its name, and
names what it needs by role. So a new knob with a default, and a new role, make no work another.

The release before wrote neither: its specifications hold every knob, and the sides of a comparison one by one. They are
carried out as they are, under its edition.
"""

from typing import Any

from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.profile import MeasurementProfile, Stage

SIDES = ("reference", "candidate", "control")
"""Roles of a comparison's traces, in the order in which they are compared."""

SIGNED_SINCE = 6
"""The version of specifications that first said which files were signed: workers from before would not look."""
NAMES_SINCE = {"spinal/2": 5}
"""Name of a profile -> the version of specifications that first knew it; the others are known ever since."""


def newest_version() -> int:
    """The newest version of specifications that this code can carry out: that of its newest knob."""
    return max([PRESENT.since, SIGNED_SINCE, *(knob.since for knob in MeasurementProfile.table().values())])


def spec_version(spec: dict[str, Any]) -> int:
    """The version that a worker has to know to carry out ``spec``: a worker claims no run of a newer one than its own.
    It grows with the knobs that are set, so that older workers go on with what they can do."""
    table, profile = MeasurementProfile.table(), spec.get("profile", {})
    named = NAMES_SINCE.get(profile.get("name"), FORMER.since)
    knobs = (table[knob].since for knob in profile if knob in table)
    signed = [SIGNED_SINCE] if "signed" in spec else []
    needed = (spec_version(each) for each in needs(spec).values())
    return max([edition_of(spec).since, named, *signed, *knobs, *needed])


def edition_of(spec: dict[str, Any]) -> Edition:
    """Under which edition the results of ``spec`` are called."""
    return PRESENT if "scheme" in spec else FORMER


def trace_spec(
    *,
    model: str,
    snapshot: str,
    files: str,
    prompt_set: str,
    profile: MeasurementProfile,
    tenant: str | None = None,
    weights_digest: str | None = None,
    read: dict[str, Any] | None = None,
    signed: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure the checkpoint ``model`` (a reference); for one ``tenant`` alone where one is named.

    ``snapshot`` tells a worker on any machine that it is about to read what was submitted. ``files`` is what this host
    said of the files: while it says the same, a result is one of the same content, and nothing is read again.
    ``weights_digest`` is the content that the caller expects, where one is. ``read`` says how the checkpoint is read
    where that is not its own way (:mod:`spinal.checkpoints.read_as`). ``signed`` has sha256 of the files that a trusted
    key has signed, by name, and the key's id. Knobs that act only on comparisons are left out:
    changing them never traces anew.
    """
    expected = {} if weights_digest is None else {"weights_digest": weights_digest}
    return (
        _for(tenant)
        | expected
        | ({"read": read} if read else {})
        | ({"signed": signed} if signed else {})
        | {
            "scheme": PRESENT.scheme,
            "kind": "trace",
            "model": model,
            "snapshot": snapshot,
            "files": files,
            "prompt_set": prompt_set,
            "profile": _asked(profile, "trace"),
            "engine_version": PRESENT.engine,
        }
    )


def compare_spec(
    sides: dict[str, dict[str, Any]], *, profile: MeasurementProfile, tenant: str | None = None
) -> dict[str, Any]:
    """Compare the traces of specifications by role (``SIDES``), under every knob of ``profile``."""
    return _for(tenant) | {
        "scheme": PRESENT.scheme,
        "kind": "compare",
        "needs": sides,
        "scorer_version": PRESENT.scorer,
        "profile": _asked(profile, "trace", "compare"),
    }


def _asked(profile: MeasurementProfile, *stages: Stage) -> dict[str, Any]:
    return profile.asked(profile.knobs(*stages))


def _for(tenant: str | None) -> dict[str, Any]:
    return {} if tenant is None else {"tenant": tenant}


def needs(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The specifications of the runs that have to be done before, by the name under which their results are used.
    A specification says so in its member ``needs``; comparisons of the release before name their sides one by one."""
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
    """The identity of the work, under the scheme that ``spec`` names."""
    return digest_of(spec, spec.get("scheme", FORMER.scheme))
