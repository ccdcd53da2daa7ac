"""A training run as cases: one for each signal and one for each checkpoint's own limits."""

from typing import Literal

from spinal.documents.comparison import Outcome
from spinal.documents.series import Series, SeriesAlarm, SeriesMember, SeriesPoint, SeriesSignal
from spinal.report.content.case import LONGEST_NAME, Case, Judgement, figure, short, with_whole
from spinal.report.content.series.lead import (
    OUTCOMES,
    alarms_of,
    is_measured,
    name_of,
    not_followed,
    state_of,
    unmeasured,
    why_unmeasured,
    word,
)

WHOLE = "series"
"""The case of a run that says what neither a signal nor a checkpoint does."""
LIMITS = "member_limit"
"""The rule that the checkpoints' own cases have in common."""


def judgement(series: Series) -> Judgement:
    """What is said of the run, by the outcome that a pipeline knows."""
    steps = {
        "onset_step": series.onset_step,
        "worse_from_step": series.worse_from_step,
        "first_alarm_step": series.first_alarm_step,
        "first_warning_step": series.first_warning_step,
    }
    digest = series.reference_weights_digest
    return Judgement(
        OUTCOMES[series.status],
        word(series.status),
        series.policy,
        series.reasons,
        next(iter((*series.alarmed, *series.warned)), None),
        "series",
        series.digest,
        {} if digest is None else {"reference": digest},
        {name: step for name, step in steps.items() if step is not None},
    )


def cases(series: Series) -> tuple[Case, ...]:
    """Signals in the document's order, then checkpoints by step. A run that is healthy or to be watched has no case
    that stops a pipeline: the document has decided that what is missing was not needed."""
    decided = series.status in ("healthy", "watch")
    found = (
        *(_of_signal(series, key, signal, decided=decided) for key, signal in series.signals.items()),
        *(_of_member(series, member, decided=decided) for member in series.members),
    )
    outcome = OUTCOMES[series.status]
    message = short("; ".join(series.reasons)) or word(series.status)
    return with_whole(found, Case(WHOLE, outcome, "what does the whole series say?", _severity(outcome), message, {}))


def _of_signal(series: Series, key: str, signal: SeriesSignal, *, decided: bool) -> Case:
    every = alarms_of(series, key)
    alarms = [alarm for alarm in every if alarm.kind != "limit"]
    outcome, left_out = _outcome(alarms), False
    message = "; ".join(alarm.text for alarm in alarms)
    if not alarms:
        if signal.needed and (signal.reason or not is_measured(signal)) and not decided:
            outcome, message = "inconclusive", why_unmeasured(signal)
        elif not is_measured(signal):
            left_out, message = True, unmeasured(signal)
        elif signal.reason:
            left_out, message = True, not_followed(signal)
        else:
            what = "no lasting fall" if signal.better else "no alarm"
            message = f"{what}; beyond a limit at step {every[0].step}, see there" if every else what
    asks = f"does the run {'begin to destabilise' if signal.better else 'change its course'} ({signal.label})?"
    severity: Literal["fail", "warn"] = "fail" if signal.role == "damage" else "warn"
    numbers = _numbers(signal, alarms)
    return Case(short(key, LONGEST_NAME), outcome, short(asks), severity, short(message), numbers, left_out=left_out)


def _of_member(series: Series, member: SeriesMember, *, decided: bool) -> Case:
    outcome, message = _alone(series, member, decided=decided)
    numbers: dict[str, str] = {"model": short(member.model, LONGEST_NAME)}
    if member.verdict:
        numbers["verdict"] = member.verdict
    if member.comparison:
        numbers["comparison"] = member.comparison
    return Case(
        f"step {member.step}",
        outcome,
        "is this checkpoint beyond a limit of damage?",
        "fail",
        short(message),
        numbers,
        # What waits has failed nothing yet, and what was decided without it needed it not.
        left_out=outcome == "pass" and member.state != "measured",
        rule=LIMITS,
    )


def _alone(series: Series, member: SeriesMember, *, decided: bool) -> tuple[Outcome, str]:
    """What the limits say of one checkpoint, and why."""
    beyond = [alarm for alarm in series.alarms if alarm.kind == "limit" and alarm.step <= member.step]
    here = [alarm for alarm in beyond if alarm.step == member.step]
    if here:
        return _outcome(here), "; ".join(f"{name_of(series, alarm.signal)}: {alarm.text}" for alarm in here)
    if member.state != "measured":
        return "pass" if decided or member.state == "waiting" else "inconclusive", state_of(member)
    why = f": {member.verdict_reason}" if member.verdict_reason else ""
    if member.beyond and beyond:
        # A run alarms once for a limit: the checkpoints after it may be as far beyond.
        rules = ", ".join(member.beyond)
        return (
            "fail",
            f"fails {rules} by itself{why} (the first checkpoint beyond a limit is that at step {beyond[0].step})",
        )
    if member.verdict == "inconclusive" and not decided:
        return "inconclusive", f"by itself it is judged inconclusive{why}"
    alone = f"; by itself it is judged {member.verdict}{why}" if member.verdict else ""
    return "pass", f"no alarm for a limit of damage{alone}"


def _outcome(alarms: list[SeriesAlarm]) -> Outcome:
    if any(alarm.role == "damage" for alarm in alarms):
        return "fail"
    return "warn" if alarms else "pass"


def _severity(outcome: Outcome) -> Literal["fail", "warn"] | None:
    return None if outcome == "pass" else "warn" if outcome == "warn" else "fail"


def last_measured(signal: SeriesSignal) -> SeriesPoint | None:
    """Its last point with a value."""
    return next((point for point in reversed(signal.points) if point.value is not None), None)


def _numbers(signal: SeriesSignal, alarms: list[SeriesAlarm]) -> dict[str, str]:
    numbers: dict[str, str] = {}
    last = last_measured(signal)
    if last is not None and last.value is not None:
        numbers |= {"step": str(last.step), "value": figure(last.value)}
        if last.of is not None:
            numbers["of"] = short(last.of, LONGEST_NAME)
        if last.ci is not None:
            numbers["interval"] = f"[{figure(last.ci[0])}, {figure(last.ci[1])}]"
        if last.fall is not None:
            numbers["fall"] = figure(last.fall)
        if last.distance is not None:
            numbers["distance"] = figure(last.distance)
        if signal.unit:
            numbers["unit"] = short(signal.unit, LONGEST_NAME)
    if signal.threshold is not None:
        numbers["threshold"] = figure(signal.threshold)
    if signal.limit is not None:
        numbers["limit"] = figure(signal.limit)
    if alarms:
        numbers |= {"onset_step": str(alarms[0].onset_step), "alarm_step": str(alarms[0].step)}
        if alarms[0].worse_from_step is not None:
            numbers["worse_from_step"] = str(alarms[0].worse_from_step)
    return numbers
