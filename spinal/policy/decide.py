"""From facts to the verdict, under the default policy ``spinal-default/2``. Verdicts of ``spinal-default/1`` are stored
documents: they are shown as they are, and never made again."""

from datetime import date

from spinal.documents.comparison import (
    Comparison,
    ComparisonContent,
    Outcome,
    RuleOutcome,
    Verdict,
)
from spinal.documents.policy import Policy
from spinal.policy.rules import RULES, Facts

POLICY = "spinal-default/2"
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "warn", "pass")
QUIET = "the damage panel is quiet"


def judged(
    content: ComparisonContent,
    policy: Policy | None = None,
    *,
    former: ComparisonContent | None = None,
    today: date | None = None,
) -> Comparison:
    """The comparison with the verdict of ``policy`` (the default one), whatever verdict it carried. Rules on
    ``former.`` values are read against ``former``; a waiver that expired before ``today`` (UTC) does not hold."""
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
        reasons=tuple(dict.fromkeys((*first, *said, *(statement.text for statement in facts.statements)))),
        rules=tuple(
            RuleOutcome(rule=name, outcome="pass", reasons=())
            if finding is None
            else RuleOutcome(rule=name, outcome=finding.outcome, reasons=finding.reasons)
            for name, finding in asked
        ),
    )
