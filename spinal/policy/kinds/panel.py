"""The damage panel's own level where no rule says why, and its signals that no rule asks for: a panel of another
release may know signals and limits that the policy does not."""

from collections.abc import Iterator, Sequence

from spinal.documents.policy import AgreementRule, LimitRule, PanelRule
from spinal.policy.kinds.base import Answer, Context, Finding, Kind
from spinal.policy.words import sentence

DAMAGE = "damage."


def _judge(rule: PanelRule, context: Context) -> Answer:
    return Answer(tuple(_findings(context)), "fail")


def _findings(context: Context) -> Iterator[Finding]:
    rules = [
        (each, each.value if isinstance(each, LimitRule) else each.while_.value)
        for each in context.policy.rules
        if isinstance(each, LimitRule | AgreementRule)
    ]
    asked = {path for _, path in rules}
    # A finding that is waived says why, too.
    said = {
        finding.outcome for each, path in rules if path.startswith(DAMAGE) for finding in context.answer(each).findings
    }
    level = context.content.damage.level
    if level == "damaged" and "fail" not in said:
        yield Finding("fail", ("the candidate looks damaged",))
    elif level == "watch" and not said & {"fail", "warn"}:
        yield Finding("warn", ("a damage signal is raised",))
    elif level == "damaged" and not _counts(context, [each for each, path in rules if path.startswith(DAMAGE)]):
        # Only what is waived says why; a signal that no rule asks for is not waived with it.
        for name, signal in context.content.damage.signals.items():
            alone = signal.fails_alone and signal.level == "damaged" and signal.value is not None
            if alone and f"{DAMAGE}{name}" not in asked:
                yield Finding("fail", (sentence(name, signal),))
    for name, signal in context.content.damage.signals.items():
        if signal.watch is not None and signal.value is None and f"{DAMAGE}{name}" not in asked:
            reason = f"{name} could not be measured ({signal.reason}), so damage cannot be ruled out"
            yield Finding("inconclusive", (reason,))


def _counts(context: Context, rules: Sequence[LimitRule | AgreementRule]) -> bool:
    """Whether one of the rules fails and is not waived."""
    return any(
        finding.outcome == "fail"
        for each in rules
        if not context.holds(each.waiver)
        for finding in context.answer(each).findings
    )


PANEL = Kind("panel", _judge, lambda _rule: ())
