"""The answer of a series in sentences: what was found, what was looked at and found nothing, and what was not."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.analysis.series.cusum import FIRST
from spinal.analysis.series.detectors import Falling, Found
from spinal.analysis.series.pairing import present
from spinal.analysis.series.thresholds import FEWEST
from spinal.documents.comparison import ComparisonContent, Verdict
from spinal.documents.policy import Policy
from spinal.documents.series import SeriesAlarm, SeriesSettings, SeriesSignal, Status
from spinal.policy.series.limits import AtStep
from spinal.policy.series.points import NOT_KEPT, NOT_SHARED
from spinal.policy.series.sentences import MOST_NAMED, at_steps, checkpoints, last_of, worse_alone
from spinal.policy.series.signals import TRACKED


@dataclass(frozen=True)
class MeasuredAt:
    """One member that is measured."""

    step: int
    content: ComparisonContent
    verdict: Verdict


@dataclass(frozen=True)
class Judged:
    """What limits and detectors made of the members that are measured."""

    policy: Policy
    settings: SeriesSettings
    measured: Sequence[MeasuredAt]
    limits: Sequence[AtStep]
    """Of each of them."""
    given: Mapping[str, Mapping[str | None, Falling]]
    found: Found
    damage: Sequence[SeriesAlarm]
    early: Sequence[SeriesAlarm]
    told: Mapping[str, SeriesSignal]

    @property
    def steps(self) -> list[int]:
        return [each.step for each in self.measured]


def gaps_of(judged: Judged, failed: Sequence[tuple[int, str | None]]) -> Iterator[str]:
    """What could not be measured although the policy needs it: ``failed`` are steps of members, with why."""
    if failed:
        why = "; ".join(dict.fromkeys(reason for _, reason in failed if reason))
        yield (
            f"{checkpoints(len(failed))} could not be measured, at {at_steps([step for step, _ in failed])}"
            + (f" ({why})" if why else "")
        )
    open_at: dict[str, list[int]] = {}
    for each, at in zip(judged.measured, judged.limits, strict=True):
        for rule in at.open:
            open_at.setdefault("; ".join(rule.reasons) or f"rule {rule.rule} has no answer", []).append(each.step)
    for reason, steps in open_at.items():
        yield f"at {at_steps(steps)}: {reason}"
    for name, signal in judged.told.items():
        if not signal.needed:
            continue
        unpaired = [
            (point.step, NOT_KEPT if not each.content.by_prompt else NOT_SHARED)
            for point, each in zip(signal.points, judged.measured, strict=True)
            if point.value is not None
            and point.fall is None
            and (not each.content.by_prompt or signal.threshold is not None)
        ]
        for why in dict.fromkeys(why for _, why in unpaired):
            steps = [step for step, reason in unpaired if reason == why]
            yield f"{name} at {at_steps(steps)} cannot be compared with other steps: {why}"
        if (
            not unpaired
            and signal.threshold is None
            and sum(point.value is not None for point in signal.points) >= FEWEST
        ):
            yield f"{name} could not be looked at for a fall: {signal.reason}"


def reasons_of(judged: Judged, status: Status, gaps: Sequence[str], waiting: Sequence[int]) -> Iterator[str]:
    """The answer first, then what else was found, then what was not looked at; ``waiting`` are steps."""
    yield from (alarm.text for alarm in judged.damage)
    yield from gaps
    if not judged.damage:
        yield _quiet(judged, status)
    yield from (alarm.text for alarm in judged.early)
    yield from _alone(judged)
    if not judged.damage:
        yield from _by_themselves(judged)
    if waiting:
        yield f"{checkpoints(len(waiting))} not measured yet, at {at_steps(waiting)}: this is about the others"
    absent = [
        f"{signal.label} ({signal.reason})" for signal in judged.told.values() if _is_absent(signal, judged.steps)
    ]
    if absent:
        yield f"not looked at: {'; '.join(absent)}"


def _quiet(judged: Judged, status: Status) -> str:
    """What was looked at and found nothing, and no more than that."""
    steps, limits = judged.steps, judged.limits
    span = checkpoints(len(steps)) + (f", steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else "")
    limited = any(at.limited for at in limits)
    waived = " but what is waived" if any(at.waived for at in limits) else ""
    without = f"; {judged.policy.name} has no limit of damage that fails a checkpoint"
    if len(steps) < FEWEST:
        none = f"; none is known to be beyond a damage limit{waived}" if limited else without if steps else ""
        return f"measured: {span}; falls are looked for from {FEWEST} on{none}"
    looked = any(signal.threshold is not None for signal in judged.told.values())
    fall = "no lasting fall of a damage signal" if looked else "no damage signal could be looked at for a fall"
    what = "what was measured" if status == "inconclusive" else "anything that was measured"
    if not limited:
        return f"{fall} in {what} of {span}{without}"
    return f"{fall} and no checkpoint beyond a damage limit{waived} in {what} of {span}"


def _alone(judged: Judged) -> Iterator[str]:
    """Single checkpoints that are worse by as much as counts: no fall, or, at the end, none yet."""
    steps, alarmed = judged.steps, {alarm.signal for alarm in judged.damage}
    for name, parts in judged.found.drawdowns.items():
        places = [(part, of, place) for part, of in parts.items() for place in of.alone]
        if name in alarmed or not places:
            continue
        # The last one says most, for it may go on.
        part, of, place = max(places, key=lambda each: (each[2], float(each[1].distance[each[2]])))
        yield worse_alone(
            TRACKED[name],
            of=part,
            step=steps[place],
            best=steps[int(of.best[place])],
            fall=float(of.fall[place]),
            ends=(float(of.low[place]), float(of.high[place])),
            last=last_of(place, len(steps)) if place == of.last else None,
        )


def _by_themselves(judged: Judged) -> Iterator[str]:
    """Checkpoints that are well by the rule of a series, and not by themselves."""
    for outcome in ("fail", "warn"):
        steps = [each.step for each in judged.measured if each.verdict.outcome == outcome]
        if steps:
            yield f"judged each by itself, {judged.policy.name} says '{outcome}' at {at_steps(steps)}"
    damaged = [
        each.step
        for each in judged.measured
        if each.content.damage.level == "damaged" and each.verdict.outcome != "fail"
    ]
    if damaged:
        yield f"the damage panel says 'damaged' at {at_steps(damaged)} all the same"


def _is_absent(signal: SeriesSignal, steps: Sequence[int]) -> bool:
    """Whether no fall of it was looked for; of a short series that is said of all at once."""
    if not steps or signal.role != "damage" or not signal.reason:
        return False
    return len(steps) >= FEWEST or all(point.value is None for point in signal.points)


def remarks_of(judged: Judged, *, closed: bool) -> Iterator[str]:
    """What else a reader has to know."""
    steps, told, since = judged.steps, judged.told, judged.settings.plateau_from_step
    waived: dict[str, list[int]] = {}
    for at, step in zip(judged.limits, steps, strict=True):
        for rule in at.waived:
            assert rule.waived is not None
            reason = (
                f"rule {rule.rule} is waived until {rule.waived.expires} ({rule.waived.reason}) and counts for nothing"
            )
            waived.setdefault(reason, []).append(step)
    for reason, at_those in waived.items():
        yield f"{reason}: the checkpoints at {at_steps(at_those)} are beyond its limit"
    for name, signal in told.items():
        lacking = [point.step for point in signal.points if point.value is None]
        if lacking and len(lacking) < len(signal.points):
            yield f"{name}: no value at {at_steps(lacking)}, which detectors step over"
        alone = [
            point.step
            for point in signal.points
            if signal.threshold is not None and not signal.needed and point.value is not None and point.fall is None
        ]
        if alone:
            yield f"{name} at {at_steps(alone)} cannot be compared with other steps, and no fall is known there"
    yield from _categories([each.content for each in judged.measured], judged.given)
    early = [signal for signal in told.values() if signal.role == "early_warning"]
    short = dict.fromkeys(signal.reason for signal in early if signal.reason)
    if short:
        yield f"early warning, not or not wholly looked at: {'; '.join(short)}"
    if since is None:
        yield "no plateau was approved, so that no CUSUM looked for small shifts that stay"
    elif (many := sum(step >= since for step in steps)) <= FIRST:
        yield f"{checkpoints(many)} on the plateau from step {since} on, and the CUSUM looks from {FIRST + 1} on"
    if not closed:
        yield "checkpoints may still come: thresholds grow with their number, and what is said here may change"


def _categories(
    contents: Sequence[ComparisonContent], given: Mapping[str, Mapping[str | None, Falling]]
) -> Iterator[str]:
    """Categories in which no fall was looked for."""
    name = next(signal.name for signal in TRACKED.values() if signal.by_category)
    parts = given.get(name, {})
    kept = [each.by_prompt[of] for each in contents if (of := TRACKED[name].paired) in each.by_prompt]
    every = {category for each in kept for category in each.categories if category is not None}
    looked = {part for part, of in parts.items() if present(of.values).size >= FEWEST}
    left = sorted(every - looked)
    if looked and left:
        few = f"fewer than {MIN_PROMPTS} prompts, or fewer than {FEWEST} checkpoints that have as many"
        named = ", ".join(left[:MOST_NAMED]) + (f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else "")
        yield f"categories not looked at by themselves ({few}): {named}"
