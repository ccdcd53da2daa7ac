"""Values that decide nothing one by one and agree, while another is raised."""

from dataclasses import replace

from spinal.analysis.damage.limits import MIN_PROMPTS, beyond
from spinal.documents.policy import AgreementRule, Side, ValueLimit
from spinal.policy.kinds.base import Answer, Context, Finding, Kind
from spinal.policy.values import Value, named
from spinal.policy.words import told

UNSURE = f"has no interval that says how sure it is (at least {MIN_PROMPTS} prompts, compared by this release)"


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
    raises = _beyond(raised, found)
    if raises is False or context.fails(raised.value):
        return answer
    read = [(test, context.read(test.value)) for test in rule.among]
    told_of = [(test, value, _beyond(test, value)) for test, value in read]
    far = [(test, value) for test, value, beyond_it in told_of if beyond_it]
    agreeing = {test.value for test, _ in far}
    unknown = {test.value for test, _, beyond_it in told_of if beyond_it is None} - agreeing
    if len(agreeing | unknown) < rule.at_least:
        return answer
    if raises is None:
        return replace(answer, findings=_open(rule, f"{raised.value} {UNSURE}"))
    if len(agreeing) < rule.at_least:
        without = {test.value for test, value in read if value.value is None}
        why = [f"{', '.join(sorted(names))} {what}" for names, what in (
            (unknown & without, "could not be measured"), (unknown - without, UNSURE),
        ) if names]  # fmt: skip
        return replace(answer, findings=_open(rule, ", and ".join(why)))
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


def _beyond(test: ValueLimit, found: Value) -> bool | None:
    """Whether a value is beyond its limit; None where that cannot be told."""
    if found.value is None:
        return None
    down = test.bad == "below"
    reached = beyond(found.value, test.limit, down=down)
    if test.decides == "value":
        return reached
    if found.ci is None:
        if test.decides == "far_end":
            # The other end is at least as bad as a value that is bad.
            return True if reached else None
        # Comparisons of earlier releases kept no intervals; what their panel called damaged agrees with that.
        said = found.signal is not None and found.signal.n is None and found.signal.level == "damaged"
        return said or None if reached else False
    low, high = found.ci
    end = (high if down else low) if test.decides == "near_end" else (low if down else high)
    return beyond(end, test.limit, down=down)


def _limits(rule: AgreementRule) -> tuple[tuple[str, str, Side, float], ...]:
    tests = {"while": rule.while_, **{f"among.{number}": test for number, test in enumerate(rule.among, start=1)}}
    return tuple((f"{member}.value", test.value, test.bad, test.limit) for member, test in tests.items())


AGREEMENT = Kind("agreement", _judge, _limits)
