"""Another configuration that computes something else."""

from spinal.documents.account import configuration_carries
from spinal.documents.policy import SettingsRule
from spinal.policy.kinds.base import NAMED, Answer, Context, Finding, Kind


def _judge(rule: SettingsRule, context: Context) -> Answer:
    content = context.content
    carries = configuration_carries(content.accounts)
    gap = content.damage.signals.get("gap")
    found = Answer(severity=rule.severity)
    moved = None if gap is None else gap.value
    if carries is False or (moved is not None and moved <= rule.same_output):
        return found
    named = [
        f"{each.key}: {each.reference} -> {each.candidate}"
        for each in content.settings
        if each.computes and each.key not in rule.allowed
    ]
    if not named:
        return found
    if moved is None:
        why = "settings differ and whether that moved the output was not measured"
        reason = f"{why}: {', '.join(named[:NAMED])}, so rule {rule.name} has no answer"
        return found if rule.unmeasured == "pass" else Answer((Finding(rule.unmeasured, (reason,)),), rule.severity)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    # Without an account nothing tells whether the keys or the weights moved the output.
    verb = "computes under" if carries else "may compute something else under"
    reason = f"{verb} another configuration: {', '.join(named[:NAMED])}{more}"
    return Answer((Finding(rule.severity, (reason,)),), rule.severity)


SETTINGS = Kind("settings", _judge, lambda _rule: ())
