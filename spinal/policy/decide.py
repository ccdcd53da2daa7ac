"""From a comparison and a policy to the verdict. Verdicts of ``spinal-default/1`` are stored documents: they are shown
as they are, and never made again."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime

from spinal.documents.comparison import (
    WORST_FIRST,
    Comparison,
    ComparisonContent,
    Outcome,
    RuleOutcome,
    Verdict,
    Waived,
)
from spinal.documents.policy import Policy, Rule
from spinal.policy.kinds import KINDS, Answer, Context, Finding
from spinal.policy.kinds.base import NAMED
from spinal.policy.kinds.not_looked_at import gaps
from spinal.policy.shipped import DEFAULT_POLICY, default_policy
from spinal.policy.values import Sources
from spinal.policy.words import sentence

POLICY = DEFAULT_POLICY
ONLY_WAIVED = "nothing counts against it but what is waived"
FORMER = "former."


def judged(
    content: ComparisonContent,
    policy: Policy | None = None,
    *,
    former: ComparisonContent | None = None,
    today: date | None = None,
) -> Comparison:
    """The comparison with the verdict of ``policy`` (the default one), whatever verdict it carried. Rules on
    ``former.`` values are read against ``former``; a waiver that expired before ``today`` (UTC) does not hold."""
    verdict = decide(content, policy, former=former, today=today)
    sides = {"reference": content.reference, "candidate": content.candidate, "control": content.control}
    weights = {role: side.weights_digest for role, side in sides.items() if side is not None}
    return Comparison.of(content, verdict.model_copy(update={"weights": weights}))


def decide(
    content: ComparisonContent,
    policy: Policy | None = None,
    *,
    former: ComparisonContent | None = None,
    today: date | None = None,
) -> Verdict:
    """The worst outcome that a rule finds. Its reasons come first, then those of the milder findings, then what was not
    looked at, and last where the change sits. Without a finding: pass."""
    # Brings numpy along, and who only lists rules or watches the ledger needs none.
    from spinal.analysis.statements import said

    asked = default_policy() if policy is None else policy
    context = Context(asked, Sources(content, former), KINDS, datetime.now(UTC).date() if today is None else today)
    answers = [(rule, context.answer(rule)) for rule in asked.rules]
    counted = [(rule, _counted(rule, answer, context)) for rule, answer in answers]
    findings = [finding for _, each in counted for finding in each]
    outcome = worst(findings)
    reasons = [reason for worth in WORST_FIRST for each in findings if each.outcome == worth for reason in each.reasons]
    rules = tuple(_outcome(rule, answer, context) for rule, answer in answers)
    first = [_quiet(asked, rules)] if outcome == "pass" else []
    statements = (statement.text for statement in said(content))
    return Verdict(
        outcome=outcome,
        policy=asked.name,
        policy_digest=asked.digest,
        decided_by=None if outcome == "pass" else next(rule.name for rule, each in counted if worst(each) == outcome),
        reasons=tuple(dict.fromkeys((*first, *reasons, *_let_pass(content, outcome), *gaps(content), *statements))),
        rules=rules,
        former=former.digest if former is not None and reads_former(asked) else None,
    )


def reads_former(policy: Policy) -> bool:
    """Whether a rule asks for values of a former comparison."""
    return any(path.startswith(FORMER) for path in paths_of(policy))


def paths_of(policy: Policy) -> Iterator[str]:
    """Every value that its rules ask for; the same one may come again."""
    return (path for rule in policy.rules for _, path, *_ in KINDS[rule.kind].values(rule))


def worst(findings: Sequence[Finding]) -> Outcome:
    """The worst outcome among findings, pass without any."""
    return min((finding.outcome for finding in findings), key=WORST_FIRST.index, default="pass")


def _let_pass(content: ComparisonContent, outcome: Outcome) -> Iterator[str]:
    """That the damage panel is raised under rules to which this makes no difference: whoever reads that it passes is
    told so."""
    level = content.damage.level
    if (level, outcome) not in (("damaged", "pass"), ("damaged", "warn"), ("watch", "pass")):
        return
    signals = content.damage.signals.items()
    # By itself where one is; else those that agree.
    raised = [(name, signal) for name, signal in signals if signal.level == level and signal.value is not None]
    chosen = [(name, signal) for name, signal in raised if signal.fails_alone] or raised
    told = "; ".join(sentence(name, signal) for name, signal in chosen[:NAMED])
    yield f"the damage panel says '{level}' all the same" + (f": {told}" if told else "")


def _quiet(policy: Policy, rules: Sequence[RuleOutcome]) -> str:
    if any(rule.waived is not None for rule in rules):
        return ONLY_WAIVED
    return policy.quiet or f"no rule of {policy.name} found anything"


def _counted(rule: Rule, answer: Answer, context: Context) -> tuple[Finding, ...]:
    """What of an answer counts: of a waived one, a remark."""
    waiver, would_be = rule.waiver, worst(answer.findings)
    if waiver is None or (context.holds(waiver) and would_be == "pass"):
        return answer.findings
    if context.holds(waiver):
        reasons = "; ".join(_reasons(answer))
        waived = f"rule {rule.name} is waived until {waiver.expires} ({waiver.reason}), else {would_be}: {reasons}"
        return (Finding("pass", (waived,)),)
    return (*answer.findings, Finding(would_be, (_expired(rule),)))


def _outcome(rule: Rule, answer: Answer, context: Context) -> RuleOutcome:
    found, value, reasons = worst(answer.findings), answer.value, _reasons(answer)
    waiver, waived = rule.waiver, None
    if waiver is not None and not context.holds(waiver):
        reasons = (*reasons, _expired(rule))
    elif waiver is not None and found != "pass":
        waived = Waived(reason=waiver.reason, expires=waiver.expires, would_be=found)
    return RuleOutcome(
        rule=rule.name,
        outcome="pass" if waived is not None else found,
        reasons=reasons,
        asks=rule.asks,
        severity=answer.severity,
        path=answer.path,
        of=None if value is None else value.of,
        value=None if value is None else value.value,
        ci=None if value is None else value.ci,
        unit=answer.unit,
        bad=answer.bad,
        limit=answer.limit,
        waived=waived,
    )


def _reasons(answer: Answer) -> tuple[str, ...]:
    ordered = sorted(answer.findings, key=lambda finding: WORST_FIRST.index(finding.outcome))
    return tuple(dict.fromkeys(reason for finding in ordered for reason in finding.reasons))


def _expired(rule: Rule) -> str:
    assert rule.waiver is not None
    return f"the waiver of rule {rule.name} ({rule.waiver.reason}) expired on {rule.waiver.expires}"
