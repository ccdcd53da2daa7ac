"""From facts to the verdict, under the default policy ``spinal-default/2``. Verdicts of ``spinal-default/1`` are stored
documents: they are shown as they are, and never made again."""

from collections.abc import Iterator

from spinal.documents.comparison import (
    Comparison,
    ComparisonContent,
    Outcome,
    RuleOutcome,
    Verdict,
)
from spinal.documents.localization import NO_CHANGE, Localization
from spinal.policy.rules import RULES, Facts

POLICY = "spinal-default/2"
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "warn", "pass")
QUIET = "the damage panel is quiet"


def judged(content: ComparisonContent) -> Comparison:
    """The comparison with the verdict of the default policy as it is today, whatever verdict it carried."""
    verdict = decide(Facts.of(content))
    sides = {"reference": content.reference, "candidate": content.candidate, "control": content.control}
    weights = {role: side.weights_digest for role, side in sides.items() if side is not None}
    return Comparison.of(content, verdict.model_copy(update={"weights": weights}))


def decide(facts: Facts) -> Verdict:
    """The worst outcome that a rule finds. Its reasons come first, then those of the milder findings, then what was not
    looked at, and last where the change sits. Without a finding: pass."""
    asked = [(rule.name, rule.judge(facts)) for rule in RULES.values()]
    findings = [finding for _, finding in asked if finding is not None]
    outcome = min((finding.outcome for finding in findings), key=WORST_FIRST.index, default="pass")
    said = [
        reason
        for worth in WORST_FIRST
        for finding in findings
        if finding.outcome == worth
        for reason in finding.reasons
    ]
    first = [QUIET] if outcome == "pass" else []
    return Verdict(
        outcome=outcome,
        policy=POLICY,
        reasons=tuple(dict.fromkeys((*first, *said, *_where(facts)))),
        rules=tuple(
            RuleOutcome(rule=name, outcome="pass", reasons=())
            if finding is None
            else RuleOutcome(rule=name, outcome=finding.outcome, reasons=finding.reasons)
            for name, finding in asked
        ),
    )


def _where(facts: Facts) -> Iterator[str]:
    """Where the change sits, shown and not judged."""
    if facts.statements:
        yield from (statement.text for statement in facts.statements)
    else:
        yield _window(facts)


def _window(facts: Facts) -> str:
    """The sentence for comparisons that hold no statements, those of earlier releases."""
    if facts.identical:
        return "both sides hold the same weights: there is no change to place"
    place: Localization | None = facts.localization.get("block_swap")
    if place is None or (place.window80 is None and place.reason != NO_CHANGE):
        why = ((place and place.reason) or "not_measured").replace("_", " ")
        return f"whether and where blocks compute something else was not measured ({why})"
    if place.window80 is None:
        return "no block computes anything else than in the reference"
    first, last = place.window80
    return f"80% of the change in what blocks compute sits in blocks {first}-{last} (shown, not judged)"
