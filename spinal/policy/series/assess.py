"""From the comparisons of a series' members and a policy to its document (``docs/method.md`` ("Training runs"))."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    Status,
)
from spinal.policy.decide import decide
from spinal.policy.series.alarms import damage_alarms, early_alarms
from spinal.policy.series.arrays import carried, falling, moving
from spinal.policy.series.limits import AtStep, limits_at, waived_in
from spinal.policy.series.points import signals
from spinal.policy.series.reasons import MeasuredAt, gaps_of, reasons_of, remarks_of
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
    members have the same step, were compared with different references, or one has a comparison and is not measured, or
    is measured and has none.
    """
    asked = default_policy() if policy is None else policy
    settings = SeriesSettings() if settings is None else settings
    ordered = sorted(members, key=lambda member: member.step)
    if len({member.step for member in ordered}) < len(ordered):
        raise ValueError("two members have the same step")
    if any((member.state == "measured") != (member.content is not None) for member in ordered):
        raise ValueError("a member has a comparison exactly where it is measured")
    measured = [
        MeasuredAt(member.step, member.content, _verdict(member.verdict, member.content, asked))
        for member in ordered
        if member.content is not None
    ]
    contents, steps = [each.content for each in measured], [each.step for each in measured]
    references = {content.reference.weights_digest for content in contents}
    if len(references) > 1:
        raise ValueError("members were compared with different references")
    limits = [limits_at(each.verdict, asked) for each in measured]
    failed = [(member.step, member.reason) for member in ordered if member.state == "failed"]
    given, moves = falling(contents, asked), moving(contents, asked)
    since = settings.plateau_from_step
    plateau = None if since is None else np.array([step >= since for step in steps], dtype=bool)
    found = detect(given, moves, plateau)
    damage, early = damage_alarms(found, limits, steps), early_alarms(found, moves, steps)
    told = signals(contents, steps, asked, given, found, waived_in(limits))
    gaps = tuple(gaps_of(failed, measured, limits, told))
    status = _status(damage, early, gaps, len(measured))
    listed = _listed(
        ordered,
        {each.step: each.verdict for each in measured},
        {each.step: at for each, at in zip(measured, limits, strict=True)},
    )
    weights = next(iter(references), None)
    return Series(
        digest=digest_of(
            {
                "schema": "spinal.series/1",
                "reference": weights,
                "members": [[one.step, one.state, one.comparison, one.verdict] for one in listed],
                "verdicts": [digest_of(each.verdict.model_dump(mode="json")) for each in measured],
                # A comparison of a release that kept nothing prompt by prompt has the digest of one that does.
                "kept": [sorted(content.by_prompt) for content in contents],
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
        reasons=tuple(
            reasons_of(
                status,
                damage,
                early,
                gaps,
                measured,
                limits,
                told,
                found,
                asked,
                waiting=[member.step for member in ordered if member.state == "waiting"],
            )
        ),
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
        remarks=tuple(remarks_of(settings, plateau, limits, contents, steps, given, told, closed=closed)),
    )


def _verdict(given: Verdict | None, content: ComparisonContent, policy: Policy) -> Verdict:
    """As it was given, but for one of a release that kept no rules: which of them fail it for damage is not known."""
    return given if given is not None and given.rules else decide(content, policy)


def _listed(
    ordered: Sequence[Member], verdicts: Mapping[int, Verdict], limits: Mapping[int, AtStep]
) -> tuple[SeriesMember, ...]:
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
            beyond=tuple(rule.rule for rule in at.beyond) if (at := limits.get(member.step)) else (),
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
