"""From facts to the verdict, under the default policy ``spinal-default/1``."""

from spinal.documents.comparison import (
    Comparison,
    ComparisonContent,
    Outcome,
    RuleOutcome,
    Verdict,
)
from spinal.documents.localization import NO_CHANGE, Localization
from spinal.policy.rules import RULES, Facts

POLICY = "spinal-default/1"
WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "warn", "pass")


def judged(content: ComparisonContent) -> Comparison:
    """The comparison with the verdict of the default policy as it is today, whatever verdict it carried."""
    verdict = decide(Facts(content.damage, content.localization, content.identical))
    sides = {"reference": content.reference, "candidate": content.candidate, "control": content.control}
    weights = {role: side.weights_digest for role, side in sides.items() if side is not None}
    return Comparison.of(content, verdict.model_copy(update={"weights": weights}))


def decide(facts: Facts) -> Verdict:
    """The worst outcome that a rule finds, with that rule's reasons, the raised signals, and the place of the change.
    Without a finding: pass."""
    asked = [(rule.name, rule.judge(facts)) for rule in RULES.values()]
    findings = [finding for _, finding in asked if finding is not None]
    outcome = min((finding.outcome for finding in findings), key=WORST_FIRST.index, default="pass")
    reasons = [reason for finding in findings if finding.outcome == outcome for reason in finding.reasons]
    if outcome == "pass":
        reasons = ["the damage panel is quiet", *reasons]
    else:
        reasons += _raised(facts)
    return Verdict(
        outcome=outcome,
        policy=POLICY,
        reasons=(*reasons, _where(facts)),
        rules=tuple(
            RuleOutcome(rule=name, outcome="pass", reasons=())
            if finding is None
            else RuleOutcome(rule=name, outcome=finding.outcome, reasons=finding.reasons)
            for name, finding in asked
        ),
    )


def _raised(facts: Facts) -> tuple[str, ...]:
    return tuple(
        f"{name} = {signal.value:.4g} {signal.unit} is at '{signal.level}'"
        for name, signal in facts.damage.signals.items()
        if signal.value is not None and signal.level in ("watch", "damaged")
    )


def _where(facts: Facts) -> str:
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
