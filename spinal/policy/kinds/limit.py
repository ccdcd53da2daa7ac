"""A value with its interval against a limit."""

from collections.abc import Iterator

from spinal.analysis.damage.limits import MIN_PROMPTS, beyond
from spinal.documents.policy import LimitRule, Side
from spinal.policy.kinds.base import Answer, Context, Finding, Kind
from spinal.policy.values import Value, named
from spinal.policy.words import told

DAMAGE = "damage."


def _judge(rule: LimitRule, context: Context) -> Answer:
    found = context.read(rule.value)
    findings = tuple(_without(rule, found) if found.value is None else _findings(rule, found, found.value))
    listed = named(rule.value)
    return Answer(
        findings=findings,
        severity=rule.severity,
        path=rule.value,
        value=found,
        unit=found.signal.unit if found.signal is not None else "" if listed is None else listed.unit,
        bad=rule.bad,
        limit=_reached(rule, found, findings),
    )


def _reached(rule: LimitRule, found: Value, findings: tuple[Finding, ...]) -> float:
    """The limit that makes the outcome; where nothing was found, the one that would be the rule's severity."""
    if not findings or rule.watch is None or found.value is None or findings[0].outcome != "warn":
        return rule.limit
    harder = rule.severity == "warn" and beyond(found.value, rule.limit, down=rule.bad == "below")
    return rule.limit if harder else rule.watch


def _without(rule: LimitRule, found: Value) -> Iterator[Finding]:
    """There is no value."""
    outcome = rule.unmeasured if found.asked or rule.not_asked is None else rule.not_asked
    if outcome == "pass":
        return
    if found.signal is not None:
        name = rule.value.removeprefix(DAMAGE)
        yield Finding(outcome, (f"{name} could not be measured ({found.reason}), so damage cannot be ruled out",))
    else:
        yield Finding(outcome, (f"{rule.value} has no value ({found.reason}), so rule {rule.name} has no answer",))


def _findings(rule: LimitRule, found: Value, value: float) -> Iterator[Finding]:
    listed = named(rule.value)
    if abs(value - (0.0 if listed is None else listed.neutral)) < rule.minimum_effect:
        return
    down = rule.bad == "below"
    reached = beyond(value, rule.limit, down=down)
    near, far = _ends(found, rule.bad)
    decisive = {"near_end": near, "value": value, "far_end": far}[rule.decides]
    surely = decisive is not None and beyond(decisive, rule.limit, down=down)
    # The other end is at least as bad as a value that is bad.
    if surely or (rule.decides == "far_end" and decisive is None and reached):
        yield Finding(rule.severity, (_sentence(rule, found, surely=True),))
        return
    if decisive is None and (reached or rule.decides == "far_end"):
        if rule.unmeasured != "pass":
            yield Finding(
                rule.unmeasured,
                (
                    f"{_sentence(rule, found)}, without an interval that says how sure that is (at least "
                    f"{MIN_PROMPTS} prompts, compared by this release)",
                ),
            )
    elif reached and rule.decides == "near_end" and rule.unsure != "pass":
        yield Finding(rule.unsure, (f"{_sentence(rule, found)}, and its interval reaches back over the limit",))
    if _watched(rule, value, near):
        yield Finding("warn", (_sentence(rule, found),))


def _watched(rule: LimitRule, value: float, near: float | None) -> bool:
    down = rule.bad == "below"
    if rule.watch is None or not beyond(value, rule.watch, down=down):
        return False
    sure = rule.watch_surely_beyond
    return near is None or sure is None or beyond(near, sure, down=down)


def _ends(found: Value, bad: Side) -> tuple[float | None, float | None]:
    """The end of the interval that is nearer to good, and the other."""
    if found.ci is None:
        return None, None
    return (found.ci[1], found.ci[0]) if bad == "below" else found.ci


def _sentence(rule: LimitRule, found: Value, *, surely: bool = False) -> str:
    """Without a milder limit, the one of a rule that only warns is where a look begins."""
    if rule.watch is None and rule.severity == "warn":
        return told(rule.value, found, watch=rule.limit, limit=None)
    near, _ = _ends(found, rule.bad)
    far = near is not None and beyond(near, rule.limit, down=rule.bad == "below")
    return told(rule.value, found, watch=rule.watch, limit=rule.limit, far=far or (surely and rule.severity == "fail"))


LIMIT = Kind("limit", _judge, lambda rule: (("value", rule.value, rule.bad, rule.limit),))
