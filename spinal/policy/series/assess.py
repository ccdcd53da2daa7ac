"""From the comparisons of a series' members and a policy to its document (``docs/method.md`` ("Training runs"))."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spinal.analysis.series.cusum import FIRST
from spinal.analysis.series.detectors import detect
from spinal.analysis.series.thresholds import FEWEST
from spinal.documents.canonical import digest_of
from spinal.documents.comparison import ComparisonContent, Verdict
from spinal.documents.policy import Policy
from spinal.documents.series import (
    MemberState,
    Series,
    SeriesAlarm,
    SeriesMember,
    SeriesSettings,
    SeriesSignal,
    Status,
)
from spinal.policy.decide import decide
from spinal.policy.series.alarms import damage_alarms, early_alarms
from spinal.policy.series.arrays import carried, falling, moving
from spinal.policy.series.limits import AtStep, limits_at
from spinal.policy.series.points import NOT_KEPT, NOT_SHARED, signals
from spinal.policy.series.sentences import at_steps, checkpoints
from spinal.policy.shipped import default_policy


@dataclass(frozen=True)
class Member:
    """One checkpoint of a series, as far as it is known."""

    step: int
    model: str
    state: MemberState
    content: ComparisonContent | None = None
    """Its comparison with the reference; present exactly where it is measured."""
    verdict: Verdict | None = None
    """What the policy says of it alone, as it was decided when it was measured; decided now where absent."""
    audit: str | None = None
    reason: str | None = None
    """Why it is not measured."""


@dataclass(frozen=True)
class _Measured:
    step: int
    content: ComparisonContent
    verdict: Verdict


def assess(
    reference: str,
    members: Sequence[Member],
    policy: Policy | None = None,
    settings: SeriesSettings | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    closed: bool = True,
) -> Series:
    """The document of a series. Pure: the same members, policy and settings give the same document, in whatever order
    the members come.

    ``reference`` is what it was called; ``policy`` None is the default one. Members need not be measured: those that
    wait are listed, those that failed make a series inconclusive that is not destabilised. Raises ValueError where two
    members have the same step, or were compared with different references.
    """
    asked = default_policy() if policy is None else policy
    settings = SeriesSettings() if settings is None else settings
    ordered = sorted(members, key=lambda member: member.step)
    if len({member.step for member in ordered}) < len(ordered):
        raise ValueError("two members have the same step")
    measured = [
        _Measured(member.step, member.content, member.verdict or decide(member.content, asked))
        for member in ordered
        if member.content is not None
    ]
    contents, steps = [each.content for each in measured], [each.step for each in measured]
    references = {content.reference.weights_digest for content in contents}
    if len(references) > 1:
        raise ValueError("members were compared with different references")
    limits = [limits_at(each.verdict, asked) for each in measured]
    given, moves = falling(contents, asked), moving(contents, asked)
    since = settings.plateau_from_step
    plateau = None if since is None else np.array([step >= since for step in steps], dtype=bool)
    found = detect(given, moves, plateau)
    damage, early = damage_alarms(found, limits, steps), early_alarms(found, moves, steps)
    told = signals(contents, steps, asked, given, found)
    gaps = tuple(_gaps(ordered, measured, limits, told))
    status = _status(damage, early, gaps, len(measured))
    listed = _listed(ordered, {each.step: each.verdict for each in measured})
    weights = next(iter(references), None)
    return Series(
        digest=digest_of(
            {
                "schema": "spinal.series/1",
                "reference": weights,
                "members": [[one.step, one.state, one.comparison, one.verdict] for one in listed],
                "verdicts": [digest_of(each.verdict.model_dump(mode="json")) for each in measured],
                "policy": asked.digest,
                "settings": settings.model_dump(mode="json"),
            }
        ),
        status=status,
        onset_step=damage[0].onset_step if damage else None,
        worse_from_step=damage[0].worse_from_step if damage else None,
        first_alarm_step=damage[0].step if damage else None,
        first_warning_step=early[0].step if early else None,
        alarmed=tuple(dict.fromkeys(alarm.signal for alarm in damage)),
        warned=tuple(dict.fromkeys(alarm.signal for alarm in early)),
        reasons=tuple(_reasons(status, damage, early, gaps, ordered, steps, told)),
        alarms=(*damage, *early),
        reference=reference,
        reference_weights_digest=weights,
        policy=asked.name,
        policy_digest=asked.digest,
        settings=settings,
        labels=dict(labels or {}),
        closed=closed,
        members=listed,
        signals=told,
        remarks=tuple(_remarks(settings, plateau, limits, steps, told, closed=closed)),
    )


def _listed(ordered: Sequence[Member], verdicts: Mapping[int, Verdict]) -> tuple[SeriesMember, ...]:
    return tuple(
        SeriesMember(
            step=member.step,
            model=member.model,
            state=member.state,
            comparison=member.content.digest if member.content else None,
            weights_digest=member.content.candidate.weights_digest if member.content else None,
            audit=member.audit,
            verdict=verdict.outcome if (verdict := verdicts.get(member.step)) else None,
            verdict_reason=next(iter(verdict.reasons), None) if verdict else None,
            damage=member.content.damage.level if member.content else None,
            carried=carried(member.content) if member.content else {},
            reason=member.reason,
        )
        for member in ordered
    )


def _status(damage: Sequence[SeriesAlarm], early: Sequence[SeriesAlarm], gaps: Sequence[str], count: int) -> Status:
    """Damage says so however short the series; whatever is missing keeps the rest from being said."""
    if damage:
        return "destabilised"
    if gaps:
        return "inconclusive"
    if count < FEWEST:
        return "insufficient_series"
    return "watch" if early else "healthy"


def _gaps(
    ordered: Sequence[Member],
    measured: Sequence[_Measured],
    limits: Sequence[AtStep],
    told: Mapping[str, SeriesSignal],
) -> Iterator[str]:
    """What could not be measured although the policy needs it."""
    failed = [member for member in ordered if member.state == "failed"]
    if failed:
        why = "; ".join(dict.fromkeys(member.reason for member in failed if member.reason))
        yield (
            f"{checkpoints(len(failed))} could not be measured, at {at_steps([member.step for member in failed])}"
            + (f" ({why})" if why else "")
        )
    open_at: dict[str, list[int]] = {}
    for each, at in zip(measured, limits, strict=True):
        for rule in at.open:
            open_at.setdefault("; ".join(rule.reasons) or f"rule {rule.rule} has no answer", []).append(each.step)
    for reason, steps in open_at.items():
        yield f"at {at_steps(steps)}: {reason}"
    for name, signal in told.items():
        if not signal.needed:
            continue
        unpaired = [
            (point.step, NOT_KEPT if not each.content.by_prompt else NOT_SHARED)
            for point, each in zip(signal.points, measured, strict=True)
            if point.value is not None
            and point.fall is None
            and (not each.content.by_prompt or signal.threshold is not None)
        ]
        for why in dict.fromkeys(why for _, why in unpaired):
            steps = [step for step, reason in unpaired if reason == why]
            yield f"{name} at {at_steps(steps)} cannot be compared with other steps: {why}"


def _reasons(
    status: Status,
    damage: Sequence[SeriesAlarm],
    early: Sequence[SeriesAlarm],
    gaps: Sequence[str],
    ordered: Sequence[Member],
    steps: Sequence[int],
    told: Mapping[str, SeriesSignal],
) -> Iterator[str]:
    """The answer first, then what else was found, then what was not looked at."""
    yield from (alarm.text for alarm in damage)
    yield from gaps
    if not damage:
        span = checkpoints(len(steps)) + (f", steps {steps[0]} to {steps[-1]}" if len(steps) > 1 else "")
        if len(steps) < FEWEST:
            none = "; none is beyond a damage limit" if steps else ""
            yield f"measured: {span}; falls are looked for from {FEWEST} on{none}"
        else:
            what = "what was measured" if status == "inconclusive" else "anything that was measured"
            yield f"no fall of a damage signal and no checkpoint beyond a damage limit in {what} of {span}"
    yield from (alarm.text for alarm in early)
    waiting = [member.step for member in ordered if member.state == "waiting"]
    if waiting:
        yield f"{checkpoints(len(waiting))} not measured yet, at {at_steps(waiting)}: this is about the others"
    absent = [
        f"{signal.label} ({signal.reason})"
        for signal in told.values()
        if steps and signal.role == "damage" and signal.reason and all(point.value is None for point in signal.points)
    ]
    if absent:
        yield f"not looked at: {'; '.join(absent)}"


def _remarks(
    settings: SeriesSettings,
    plateau: "np.ndarray | None",
    limits: Sequence[AtStep],
    steps: Sequence[int],
    told: Mapping[str, SeriesSignal],
    *,
    closed: bool,
) -> Iterator[str]:
    waived: dict[str, list[int]] = {}
    for at, step in zip(limits, steps, strict=True):
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
    early = [signal for signal in told.values() if signal.role == "early_warning"]
    short = dict.fromkeys(signal.reason for signal in early if signal.reason)
    if short:
        yield f"early warning, not or not wholly looked at: {'; '.join(short)}"
    if plateau is None:
        yield "no plateau was approved, so that no CUSUM looked for small shifts that stay"
    elif int(plateau.sum()) <= FIRST:
        yield (
            f"{checkpoints(int(plateau.sum()))} on the plateau from step {settings.plateau_from_step} on, and the "
            f"CUSUM looks from {FIRST + 1} on"
        )
    if not closed:
        yield "checkpoints may still come: thresholds grow with their number, and what is said here may change"
