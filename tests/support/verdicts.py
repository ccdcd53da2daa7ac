"""Comparisons with verdicts made by hand: every outcome, waived, without an interval, of earlier releases."""

from datetime import date
from functools import cache
from typing import Any

from spinal.documents.comparison import Comparison, Outcome, RuleOutcome, Verdict, Waived
from tests.support.fabricated import changed_pair

LIMITED = RuleOutcome(
    rule="nll_change",
    outcome="fail",
    reasons=("predicts text 48 times worse: +3.87 nats/token [3.50, 4.20], limit 1.0",),
    asks="does it still predict text?",
    severity="fail",
    path="damage.nll_change",
    value=3.87,
    ci=(3.5, 4.2),
    unit="nats/token",
    bad="above",
    limit=1.0,
)
"""A rule that failed, with everything that a rule tells."""
PASSED = LIMITED.model_copy(update={"rule": "gap", "outcome": "pass", "reasons": (), "value": 0.2, "ci": (0.1, 0.3)})
WARNED = LIMITED.model_copy(
    update={
        "rule": "length",
        "outcome": "warn",
        "severity": "warn",
        "reasons": ("answers 3 times as long",),
        "ci": None,
    }
)
UNDECIDED = RuleOutcome(
    rule="refusals", outcome="inconclusive", reasons=("not measured: no pairs were given",), severity="fail"
)
WAIVED = LIMITED.model_copy(
    update={
        "rule": "code_nll",
        "outcome": "pass",
        "of": "code",
        "waived": Waived(reason="known since the last release", expires=date(2030, 1, 31), would_be="fail"),
    }
)
EVERY = (LIMITED, PASSED, WARNED, UNDECIDED, WAIVED)
FORMER = (
    RuleOutcome(rule="damage", outcome="fail", reasons=("the candidate looks damaged",)),
    RuleOutcome(rule="margin", outcome="pass", reasons=()),
)
"""As a release before kept them: no value, no limit, no question."""
QUIET = "no sure sign of damage in anything that was measured"
"""What a pass under the shipped default says first."""


def verdict(outcome: Outcome, rules: tuple[RuleOutcome, ...] = (), **members: Any) -> Verdict:
    """A verdict with these rules; the first that is not a pass has decided."""
    reasons = tuple(reason for rule in rules for reason in rule.reasons) or (QUIET,)
    decided = next((rule.rule for rule in rules if rule.outcome == outcome != "pass"), None)
    return Verdict(
        **{"outcome": outcome, "policy": "acme-release/3", "reasons": reasons, "rules": rules, "decided_by": decided}
        | members
    )


@cache
def measured(blocks: int = 10) -> Comparison:
    """What verdicts are put beside; another number of blocks for its size."""
    return changed_pair(blocks, first=blocks - 2).compare()


def with_verdict(
    given: Verdict, *, reference: str = "local:sft", candidate: str = "local:dpo", blocks: int = 10, **members: Any
) -> Comparison:
    """A comparison of two names with this verdict."""
    made = measured(blocks)
    sides = {
        "reference": made.reference.model_copy(update={"source": reference}),
        "candidate": made.candidate.model_copy(update={"source": candidate}),
    }
    return made.model_copy(update={"verdict": given, **sides, **members})
