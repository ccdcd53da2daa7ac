"""Values that decide nothing one by one and agree, while another is raised."""

from dataclasses import replace

from spinal.analysis.damage.limits import beyond
from spinal.documents.policy import AgreementRule, Side, Test
from spinal.policy.kinds.base import Answer, Context, Finding, Kind
from spinal.policy.values import Value, named
from spinal.policy.words import told


def _judge(rule: AgreementRule, context: Context) -> Answer:
    raised, found = rule.while_, context.read(rule.while_.value)
    listed = named(raised.value)
    answer = Answer(
        severity=rule.severity,
        path=raised.value,
        value=found,
        unit=found.signal.unit if found.signal is not None else "" if listed is None else listed.unit,
        bad=raised.bad,
        limit=raised.limit,
    )
    if found.value is None:
        return replace(answer, findings=_open(rule, f"{raised.value} has no value ({found.reason})"))
    if not _beyond(raised, found) or context.fails(raised.value):
        return answer
    read = [(test, context.read(test.value)) for test in rule.among]
    far = [(test, value) for test, value in read if _beyond(test, value)]
    agreeing = {test.value for test, _ in far}
    if len(agreeing) < rule.at_least:
        missing = {test.value for test, value in read if value.value is None}
        if len(agreeing | missing) < rule.at_least:
            return answer
        return replace(answer, findings=_open(rule, f"{', '.join(sorted(missing))} could not be measured"))
    beside = context.limit_alone(raised.value, raised.bad)
    reasons = (
        f"{told(raised.value, found, watch=raised.limit, limit=beside)}, and {len(far)} signals of how far it moved "
        "agree with that",
        *(told(test.value, value, watch=None, limit=test.limit) for test, value in far),
    )
    return replace(answer, findings=(Finding(rule.severity, reasons),))


def _open(rule: AgreementRule, why: str) -> tuple[Finding, ...]:
    if rule.unmeasured == "pass":
        return ()
    return (Finding(rule.unmeasured, (f"{why}, so rule {rule.name} has no answer",)),)


def _beyond(test: Test, found: Value) -> bool:
    if found.value is None:
        return False
    down = test.bad == "below"
    if test.decides == "value":
        return beyond(found.value, test.limit, down=down)
    if found.ci is None:
        # Comparisons of earlier releases kept no intervals; what their panel called damaged agrees with that.
        said = found.signal is not None and found.signal.n is None and found.signal.level == "damaged"
        return said and beyond(found.value, test.limit, down=down)
    low, high = found.ci
    end = (high if down else low) if test.decides == "near_end" else (low if down else high)
    return beyond(end, test.limit, down=down)


def _limits(rule: AgreementRule) -> tuple[tuple[str, str, Side, float], ...]:
    tests = {"while": rule.while_, **{f"among.{number}": test for number, test in enumerate(rule.among, start=1)}}
    return tuple((f"{member}.value", test.value, test.bad, test.limit) for member, test in tests.items())


AGREEMENT = Kind("agreement", _judge, _limits)
