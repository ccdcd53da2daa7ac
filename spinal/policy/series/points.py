"""Each signal over the steps, as the document shows it."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.analysis.series.change_points import MINIMUM, Break
from spinal.analysis.series.detectors import Falling, Found
from spinal.analysis.series.drawdown import Drawdown
from spinal.analysis.series.pairing import present
from spinal.analysis.series.thresholds import FEWEST
from spinal.documents.base import Estimate
from spinal.documents.comparison import ComparisonContent, DamageSignal
from spinal.documents.policy import Policy
from spinal.documents.series import ChangePoint, SeriesPoint, SeriesSignal
from spinal.policy.series.arrays import least_effect, value_of, why_no_shares
from spinal.policy.series.sentences import checkpoints
from spinal.policy.series.signals import TRACKED, Tracked, fail_limit, needed

NOT_KEPT = "not kept prompt by prompt in comparisons of that release"
NOT_SHARED = "it shares too few prompts with them"
NOT_THERE = "not in comparisons of that release"


def signals(
    contents: Sequence[ComparisonContent],
    steps: Sequence[int],
    policy: Policy,
    given: Mapping[str, Mapping[str | None, Falling]],
    found: Found,
    waived: frozenset[str] = frozenset(),
) -> dict[str, SeriesSignal]:
    """Every signal that is tracked, whether a member has it or not; ``waived`` rules set no limit."""
    return {
        signal.name: _falling_signal(signal, contents, steps, policy, given.get(signal.name, {}), found, waived)
        if signal.role == "damage"
        else _moving_signal(signal, contents, steps, policy, found)
        for signal in TRACKED.values()
    }


def _falling_signal(
    signal: Tracked,
    contents: Sequence[ComparisonContent],
    steps: Sequence[int],
    policy: Policy,
    given: Mapping[str | None, Falling],
    found: Found,
    waived: frozenset[str],
) -> SeriesSignal:
    drawdowns = found.drawdowns.get(signal.name, {})
    have = max((present(of.values).size for of in given.values()), default=0)
    one = drawdowns.get(None)
    return SeriesSignal(
        label=signal.label,
        unit=signal.unit,
        better=signal.better,
        role=signal.role,
        threshold=max((of.threshold for of in drawdowns.values()), default=None),
        sigma=_known(one.sigma) if one is not None else None,
        least_effect=None if signal.follows_best else least_effect(signal, policy),
        limit=fail_limit(policy, signal, waived),
        points=tuple(
            _falling_point(signal, content, steps, place, drawdowns) for place, content in enumerate(contents)
        ),
        needed=needed(policy, signal),
        reason=None if drawdowns else _why_not(signal, contents, have),
    )


def _falling_point(
    signal: Tracked,
    content: ComparisonContent,
    steps: Sequence[int],
    place: int,
    drawdowns: Mapping[str | None, Drawdown],
) -> SeriesPoint:
    step = steps[place]
    measured = content.damage.signals.get(signal.name)
    at_hand = {part: of for part, of in drawdowns.items() if np.isfinite(of.fall[place])}
    if not at_hand:
        return _point(step, measured, NOT_THERE)
    # Of many categories the one that counts, else the one that is nearest to counting.
    part, of = max(at_hand.items(), key=lambda item: (bool(item[1].beyond[place]), float(item[1].distance[place])))
    point = _point(step, measured, NOT_THERE) if part is None else _category_point(step, content, part)
    return point.model_copy(
        update={
            "fall": _known(of.fall[place]),
            "fall_low": _known(of.low[place]),
            "distance": _known(of.distance[place]),
            "best_step": steps[of.best[place]],
            "least_effect": _known(of.least[place]),
            "beyond": bool(of.beyond[place]),
        }
    )


def _category_point(step: int, content: ComparisonContent, category: str) -> SeriesPoint:
    looked = next((one for one in content.looked_at if one.category == category), None)
    if looked is None or looked.nll_change is None:
        return SeriesPoint(step=step, value=None, of=category, reason=NOT_THERE)
    mean: Estimate = looked.nll_change
    return SeriesPoint(
        step=step, value=mean.value, ci=mean.ci, se=mean.se, n=looked.scored, of=category, reason=mean.reason
    )


def _point(step: int, measured: DamageSignal | None, without: str) -> SeriesPoint:
    if measured is None:
        return SeriesPoint(step=step, value=None, reason=without)
    return SeriesPoint(
        step=step,
        value=measured.value,
        ci=measured.ci,
        se=measured.se,
        n=measured.n,
        of=measured.of,
        reason=None if measured.value is not None else _words(measured.reason or "not measured"),
    )


def _moving_signal(
    signal: Tracked, contents: Sequence[ComparisonContent], steps: Sequence[int], policy: Policy, found: Found
) -> SeriesSignal:
    points = tuple(_moving_point(signal, content, step) for content, step in zip(contents, steps, strict=True))
    have = sum(point.value is not None for point in points)
    breaks = found.breaks.get(signal.name)
    reason = None
    if breaks is None:
        reason = (
            f"{checkpoints(have)} have it, and change points are looked for from {2 * MINIMUM} on"
            if have
            else next((point.reason for point in points if point.reason), "no checkpoint is measured")
        )
    return SeriesSignal(
        label=signal.label,
        unit=signal.unit,
        better=None,
        role=signal.role,
        least_effect=least_effect(signal, policy),
        points=points,
        change_points=tuple(_change_point(one, steps) for one in breaks or ()),
        reason=reason,
    )


def _moving_point(signal: Tracked, content: ComparisonContent, step: int) -> SeriesPoint:
    if signal.places is None:
        return _point(step, content.damage.signals.get(signal.name), NOT_THERE)
    value = value_of(signal, content)
    return SeriesPoint(step=step, value=value, reason=None if value is not None else why_no_shares(content))


def _change_point(one: Break, steps: Sequence[int]) -> ChangePoint:
    return ChangePoint(step=steps[one.at], change=one.change, before=one.before, after=one.after)


def _why_not(signal: Tracked, contents: Sequence[ComparisonContent], have: int) -> str:
    if have:
        return f"{checkpoints(have)} can be paired, and falls are looked for from {FEWEST} on"
    if not contents:
        return "no checkpoint is measured"
    measured = [each.damage.signals.get(signal.name) for each in contents]
    if any(of is not None and of.value is not None for of in measured):
        kept = any(signal.paired in each.by_prompt for each in contents)
        return (
            f"fewer than {MIN_PROMPTS} prompts{' of any category' if signal.by_category else ''}" if kept else NOT_KEPT
        )
    return next((_words(of.reason) for of in measured if of is not None and of.reason), NOT_THERE)


def _words(reason: str) -> str:
    return reason.replace("_", " ")


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
