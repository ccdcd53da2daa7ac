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
from spinal.policy.series.limits import limits_at, waived_in
from spinal.policy.series.points import signals
from spinal.policy.series.reasons import Judged, MeasuredAt, gaps_of, reasons_of, remarks_of
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
    ordered = _in_order(members)
    measured = [
        MeasuredAt(member.step, member.content, _verdict(member.verdict, member.content, asked))
        for member in ordered
        if member.content is not None
    ]
    references = {each.content.reference.weights_digest for each in measured}
    if len(references) > 1:
        raise ValueError("members were compared with different references")
    judged = _judge(measured, asked, settings)
    damage, early = judged.damage, judged.early
    failed = [(member.step, member.reason) for member in ordered if member.state == "failed"]
    waiting = [member.step for member in ordered if member.state == "waiting"]
    gaps = tuple(gaps_of(judged, failed))
    status = _status(damage, early, gaps, len(measured))
    listed, weights = _listed(ordered, judged), next(iter(references), None)
    return Series(
        digest=_digest(weights, listed, judged),
        status=status,
        onset_step=damage[0].onset_step if damage else None,
        worse_from_step=damage[0].worse_from_step if damage else None,
        first_alarm_step=damage[0].step if damage else None,
        first_warning_step=early[0].step if early else None,
        alarmed=tuple(dict.fromkeys(alarm.signal for alarm in damage)),
        warned=tuple(dict.fromkeys(alarm.signal for alarm in early)),
        reasons=tuple(reasons_of(judged, status, gaps, waiting)),
        alarms=(*damage, *early),
        reference=reference,
        reference_weights_digest=weights,
        policy=asked.name,
        policy_digest=asked.digest,
        settings=settings,
        labels=dict(labels or {}),
        closed=closed,
        members=listed,
        signals=judged.told,
        remarks=tuple(remarks_of(judged, closed=closed)),
    )


def _in_order(members: Sequence[Member]) -> list[Member]:
    """By step; raises ValueError where they do not make a series."""
    ordered = sorted(members, key=lambda member: member.step)
    if len({member.step for member in ordered}) < len(ordered):
        raise ValueError("two members have the same step")
    if any((member.state == "measured") != (member.content is not None) for member in ordered):
        raise ValueError("a member has a comparison exactly where it is measured")
    return ordered


def _judge(measured: Sequence[MeasuredAt], policy: Policy, settings: SeriesSettings) -> Judged:
    """Every limit and every detector."""
    contents, steps = [each.content for each in measured], [each.step for each in measured]
    limits = [limits_at(each.verdict, policy) for each in measured]
    given, moves = falling(contents, policy), moving(contents, policy)
    since = settings.plateau_from_step
    plateau = None if since is None else np.array([step >= since for step in steps], dtype=bool)
    found = detect(given, moves, plateau)
    return Judged(
        policy=policy,
        settings=settings,
        measured=measured,
        limits=limits,
        given=given,
        found=found,
        damage=damage_alarms(found, limits, steps),
        early=early_alarms(found, moves, steps),
        told=signals(contents, steps, policy, given, found, waived_in(limits)),
    )


def _digest(reference: str | None, listed: Sequence[SeriesMember], judged: Judged) -> str:
    return digest_of(
        {
            "schema": "spinal.series/1",
            "reference": reference,
            "members": [[one.step, one.state, one.comparison, one.verdict] for one in listed],
            "verdicts": [digest_of(each.verdict.model_dump(mode="json")) for each in judged.measured],
            # A comparison of a release that kept nothing prompt by prompt has the digest of one that does.
            "kept": [sorted(each.content.by_prompt) for each in judged.measured],
            "policy": judged.policy.digest,
            "settings": judged.settings.model_dump(mode="json"),
        }
    )


def _verdict(given: Verdict | None, content: ComparisonContent, policy: Policy) -> Verdict:
    """As it was given, but for one of a release that kept no rules: which of them fail it for damage is not known."""
    return given if given is not None and given.rules else decide(content, policy)


def _listed(ordered: Sequence[Member], judged: Judged) -> tuple[SeriesMember, ...]:
    verdicts = {each.step: each.verdict for each in judged.measured}
    limits = {each.step: at for each, at in zip(judged.measured, judged.limits, strict=True)}
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
