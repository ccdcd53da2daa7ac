"""From the comparisons of a series' members and a policy to its document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spinal.documents.canonical import digest_of
from spinal.documents.comparison import ComparisonContent, Verdict
from spinal.documents.policy import Policy
from spinal.documents.series import MemberState, Series, SeriesMember, SeriesSettings
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
    """What the policy says of it alone, as it was decided when it was measured."""
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
    members have the same step.
    """
    asked = default_policy() if policy is None else policy
    settings = SeriesSettings() if settings is None else settings
    ordered = sorted(members, key=lambda member: member.step)
    if len({member.step for member in ordered}) < len(ordered):
        raise ValueError("two members have the same step")
    listed = tuple(
        SeriesMember(
            step=member.step,
            model=member.model,
            state=member.state,
            comparison=member.content.digest if member.content else None,
            weights_digest=member.content.candidate.weights_digest if member.content else None,
            audit=member.audit,
            verdict=member.verdict.outcome if member.verdict else None,
            damage=member.content.damage.level if member.content else None,
            reason=member.reason,
        )
        for member in ordered
    )
    return Series(
        digest=digest_of({"members": [[m.step, m.comparison] for m in listed], "policy": asked.digest}),
        status="insufficient_series",
        onset_step=None,
        first_alarm_step=None,
        alarmed=(),
        reasons=("no detector has looked yet",),
        reference=reference,
        policy=asked.name,
        policy_digest=asked.digest,
        settings=settings,
        labels=dict(labels or {}),
        closed=closed,
        members=listed,
        signals={},
    )
