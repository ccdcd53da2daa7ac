"""What a reader of a training run sees first: the status with its reason, and between which steps it began."""

from spinal.documents.comparison import Outcome
from spinal.documents.series import Series, SeriesAlarm, SeriesMember, SeriesSignal, Status
from spinal.numbers import DASH
from spinal.report.content.case import VERSION, model_name

OUTCOMES: dict[Status, Outcome] = {
    "destabilised": "fail",
    "inconclusive": "inconclusive",
    "insufficient_series": "inconclusive",
    "watch": "warn",
    "healthy": "pass",
}
"""What a pipeline does with each."""
KINDS = {
    "drawdown": "fell from its best",
    "limit": "beyond a limit",
    "change_point": "its slope changes",
    "cusum": "left its plateau",
}
"""Alarms by the detector that gave them."""
ROLES = {"damage": "damage", "early_warning": "early warning"}


def run_name(series: Series) -> str:
    """What the run is called: by its label ``name``, else as its first checkpoint without what is a version. A run
    without checkpoints, or whose checkpoints are called by steps alone, has no name but that of a training run."""
    named = series.labels.get("name")
    if named:
        return named
    name = model_name(series.members[0].model) if series.members else ""
    return "training run" if VERSION.match(name.rpartition(":")[2]) or not name else name


def word(status: Status) -> str:
    return status.replace("_", " ")


def title(series: Series) -> str:
    """The run beside its reference, and how much of it there is."""
    return f"{run_name(series)}, {extent(series)}, compared with {series.reference}"


def extent(series: Series) -> str:
    """How many checkpoints there are, over which steps.

    >>> from types import SimpleNamespace as Of
    >>> extent(Of(members=[Of(step=100), Of(step=1200)]))
    '2 checkpoints, steps 100 to 1,200'
    """
    steps = [member.step for member in series.members]
    if not steps:
        return "no checkpoints"
    if len(steps) == 1:
        return f"1 checkpoint, step {steps[0]:,}"
    return f"{len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,}"


def began(series: Series) -> str:
    """Between which steps it began, or passed a limit, and when that was known, as a sentence; empty where nothing did.
    A limit at one checkpoint says nothing of when what led there began."""
    if series.onset_step is not None:
        known = "" if series.first_alarm_step is None else f", known at step {series.first_alarm_step:,}"
        first = next((alarm for alarm in series.alarms if alarm.role == "damage"), None)
        what = "It went beyond a limit of damage" if first is not None and first.kind == "limit" else "It began"
        return f"{what} {between(series.onset_step, series.worse_from_step)}{known}."
    if series.first_warning_step is not None:
        return f"Early warning alone, known at step {series.first_warning_step:,}."
    return ""


def between(onset: int, worse_from: int | None) -> str:
    """``between steps 400 and 500``; ``after step 400`` where nothing says by when, ``at step 100 or before`` where the
    first checkpoint that was measured is worse already."""
    if worse_from is None:
        return f"after step {onset:,}"
    if worse_from <= onset:
        return f"at step {onset:,} or before"
    return f"between steps {onset:,} and {worse_from:,}"


def name_of(series: Series, key: str) -> str:
    """A signal in words."""
    signal = series.signals.get(key)
    return key.replace("_", " ") if signal is None else signal.label


def alarms_of(series: Series, key: str) -> tuple[SeriesAlarm, ...]:
    return tuple(alarm for alarm in series.alarms if alarm.signal == key)


def is_measured(signal: SeriesSignal) -> bool:
    return any(point.value is not None for point in signal.points)


def why_unmeasured(signal: SeriesSignal) -> str:
    """The signal's own reason, else that of its first checkpoint."""
    given = signal.reason or next((point.reason for point in signal.points if point.reason), None)
    return (given or "not measured").replace("_", " ")


def not_followed(signal: SeriesSignal) -> str:
    """That it has values, and what of it no detector looked at; empty where all did."""
    if not signal.reason:
        return ""
    return f"{'not looked at' if signal.better else 'not wholly looked at'} over the steps: {signal.reason}"


def state_of(member: SeriesMember) -> str:
    """``measured``, or why it is not."""
    why = (member.reason or "").strip()
    return f"{member.state}: {why}" if why and member.state != "measured" else member.state


def member_label(member: SeriesMember) -> str:
    """What a link to the member's own report is called among the links of a reader."""
    return f"step {member.step}"


def not_looked_at(series: Series) -> tuple[str, ...]:
    """What the answer does not cover: the document's own remarks, signals without a value, and checkpoints that were
    not measured, which are counted where they are many."""
    said = list(series.remarks)
    said += [f"{signal.label}: {unmeasured(signal)}" for signal in series.signals.values() if not is_measured(signal)]
    if series.status != "insufficient_series":
        said += [
            f"{signal.label}: {why}"
            for signal in series.signals.values()
            if is_measured(signal) and (why := not_followed(signal))
        ]
    out = [member for member in series.members if member.state in ("failed", "cancelled")]
    if out:
        said.append(f"{_counted(out)} not measured")
    waiting = [member for member in series.members if member.state == "waiting"]
    if waiting:
        said.append(f"{_counted(waiting)} still waiting to be measured")
    if not any(member.carried for member in series.members):
        said.append("What carries the change was not accounted for at any checkpoint")
    return tuple(said)


def status_of(member: SeriesMember) -> str:
    """What the policy says of the checkpoint alone; a dash where nothing does."""
    return member.verdict or DASH


def unmeasured(signal: SeriesSignal) -> str:
    """``not measured``, with why where that is known."""
    why = why_unmeasured(signal)
    return why if why == "not measured" else f"not measured ({why})"


def _counted(members: list[SeriesMember]) -> str:
    if len(members) == 1:
        return f"The checkpoint at step {members[0].step:,} is"
    named = ", ".join(f"{member.step:,}" for member in members[:6])
    return f"{len(members)} checkpoints are (steps {named}{', ...' if len(members) > 6 else ''})"
