"""``former.<path>``: the value at any other path minus that of a former comparison with the same reference."""

import math
from collections.abc import Sequence
from dataclasses import replace

from spinal.documents.comparison import ComparisonContent
from spinal.policy.values.base import NORMAL, Named, Namespace, Sources, Value, absent

CONTRASTS = "contrasts."
NO_FORMER = "no former comparison was given"
ANY = Named("former.<path>", "the value at any other path, minus that of the former comparison")


def _listed() -> Sequence[Named]:
    return (ANY,)


def _find(rest: str) -> Named | None:
    # Namespaces are listed by the package, which lists this one.
    from spinal.policy.values import named

    found = None if rest.startswith("former.") else named(rest)
    if found is None:
        return None
    widest = found.high - found.low
    return replace(found, means=f"{found.means}, beside the former comparison", low=-widest, high=widest, neutral=0.0)


def _read(sources: Sources, rest: str) -> Value:
    from spinal.policy.values import read

    former = sources.former
    if former is None:
        return absent(NO_FORMER)
    apart = not_comparable(sources.content, former)
    if apart is None and rest.startswith(CONTRASTS) and _other_control(sources.content, former):
        apart = "the former comparison has another control"
    if apart is not None:
        return absent(apart, asked=True)
    now, before = read(rest, Sources(sources.content)), read(rest, Sources(former))
    if now.value is None:
        return absent(now.reason or "not measured", asked=now.asked)
    if before.value is None:
        return absent(f"the former comparison has none: {before.reason}", asked=before.asked)
    if now.of != before.of:
        return absent(f"now of {now.of!r}, formerly of {before.of!r}", asked=True)
    value = now.value - before.value
    if now.error is None or before.error is None:
        return Value(value, of=now.of)
    # As of two samples. Where both candidates move alike on the prompts, the difference is surer than this says.
    error = math.hypot(now.error, before.error)
    return Value(value, (value - NORMAL * error, value + NORMAL * error), error, of=now.of)


def _other_control(content: ComparisonContent, former: ComparisonContent) -> bool:
    """Whether each was contrasted with a control of its own. One without any has no value, and says so itself."""
    both = content.control, former.control
    return None not in both and len({side.digest for side in both if side is not None}) == 2


def not_comparable(content: ComparisonContent, former: ComparisonContent) -> str | None:
    """Why differences between the two mean nothing, or None. The digest of a trace names weights, prompts, knobs and
    engine."""
    if content.reference.weights_digest != former.reference.weights_digest:
        return "the former comparison has another reference"
    if content.fingerprint != former.fingerprint:
        return "the former comparison was measured under another profile"
    if content.reference.digest != former.reference.digest:
        return "the former comparison was measured on other prompts or by another engine"
    return None


FORMER = Namespace("former", _listed, _find, _read)
