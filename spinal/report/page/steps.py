"""The figures over the steps of a training run: every signal with its band, where it began and what alarmed, and what
carries the change as a map over steps and depth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.series import Series, SeriesAlarm, SeriesSignal
from spinal.numbers import number, share
from spinal.report.content.cells import interval
from spinal.report.content.series.lead import KINDS, alarms_of, is_measured, name_of, not_followed, state_of
from spinal.report.content.series.shares import largest, share_map
from spinal.report.page.axis import Scale, scale_of
from spinal.report.page.rows import TALL, WIDE, Line, Row, grid_lines, path_of, tick_labels, zero_line
from spinal.report.page.share_map import drawn_map

DOTTED = 60
"""Checkpoints up to which every one has a dot."""
MOST_LABELS = 8
CROWDED = 12
NEAR = 0.4
"""How far a value has come on the way to its limit from which on the limit is drawn: one that lies far away would
flatten what there is to see."""


ORDER = {
    "one": "value, 95% band",
    "best": "running best",
    "counts": "a fall counts from here",
    "limit": "limit",
    "alarm": "damage, known here",
    "warning": "early warning, known here",
    "change": "its slope changes",
}
"""Styles of a signal's row, in the order of the key -> label."""


@dataclass(frozen=True)
class Steps:
    """One column for each checkpoint, evenly, by step."""

    steps: tuple[int, ...]

    @property
    def columns(self) -> int:
        return max(len(self.steps), 1)

    def x(self, column: float) -> float:
        """Middle of a column, per cent of the width."""
        return 100.0 * (column + 0.5) / self.columns

    def at(self, step: int) -> float:
        """The same of a step, between its neighbours where no checkpoint has it."""
        before = sum(one <= step for one in self.steps) - 1
        if before < 0:
            return self.x(0)
        if self.steps[before] == step or before + 1 == len(self.steps):
            return self.x(before)
        nearer = (step - self.steps[before]) / (self.steps[before + 1] - self.steps[before])
        return self.x(before + nearer)

    def names(self) -> list[tuple[float, str, str]]:
        """(x, label, anchor) of the labelled columns: the first, the last, and some between."""
        count = len(self.steps)
        if count == 0:
            return []
        longest = max(len(step_label(step)) for step in self.steps)
        most = max(2, min(MOST_LABELS, 30 // longest))
        every = max(1, math.ceil(count / most))
        chosen = [at for at in range(0, count, every) if at == 0 or count - 1 - at >= 0.8 * every]
        if count > 1:
            chosen.append(count - 1)
        # Where columns are narrow, a label in the middle of the first or last one would reach beyond the drawing.
        ends = {0: "start", count - 1: "end"} if count > CROWDED else {}
        return [(self.x(at), step_label(self.steps[at]), ends.get(at, "middle")) for at in dict.fromkeys(chosen)]


def step_label(step: int) -> str:
    """A step as an axis has room for it.

    >>> step_label(1200), step_label(120_000), step_label(120_250)
    ('1,200', '120k', '120,250')
    """
    return f"{step // 1000}k" if step >= 10_000 and step % 1000 == 0 else f"{step:,}"


@dataclass(frozen=True)
class RunFigure:
    """Rows over the same steps."""

    name: str
    axis: Steps
    rows: tuple[Row, ...]
    key: tuple[tuple[str, str, str], ...]
    """(kind of row, style, label) of what has to be told apart in any row."""
    onset: tuple[float, float] | None
    """(left, width) of the stretch in which it began, per cent of the width."""
    spoken: tuple[str, ...]
    """What every checkpoint has to say in all rows."""

    def columns(self) -> list[tuple[float, float, str]]:
        """(left, width, words) of every checkpoint."""
        wide = 100.0 / self.axis.columns
        return [(at * wide, wide, says) for at, says in enumerate(self.spoken)]


def run_figures(series: Series) -> list[RunFigure]:
    """Damage, early warning and what carries the change; those without anything to draw left out."""
    axis = Steps(tuple(member.step for member in series.members))
    onset = _stretch(series, axis)
    found = []
    for name, role in (("Damage over the steps", "damage"), ("Early warning over the steps", "early_warning")):
        signals = {key: one for key, one in series.signals.items() if one.role == role and is_measured(one)}
        rows = tuple(_signal_row(series, key, one, axis) for key, one in signals.items())
        if rows:
            found.append(RunFigure(name, axis, rows, _key_of(rows), onset, tuple(_spoken(series, axis, rows))))
    shares = share_map(series)
    if shares is not None:
        row = drawn_map(shares, len(axis.steps))
        spoken = []
        for member in series.members:
            most = ", ".join(f"{place} {share(value)}" for place, value in largest(member.carried, 5))
            spoken.append(f"step {member.step:,} · {most or 'no account'}")
        found.append(
            RunFigure(
                "What carries the change, over steps and depth", axis, (row,), _key_of((row,)), onset, tuple(spoken)
            )
        )
    return found


def _key_of(rows: Sequence[Row]) -> tuple[tuple[str, str, str], ...]:
    """Once for a figure: in a row each, it would be most of what a phone shows."""
    found = {style: (row.kind, style, label) for row in rows for style, label in row.key}
    order = list(ORDER)
    return tuple(sorted(found.values(), key=lambda one: order.index(one[1]) if one[1] in order else len(order)))


def _stretch(series: Series, axis: Steps) -> tuple[float, float] | None:
    """From the last good step to the first that is surely worse by as much as counts, or to the one at which that was
    known."""
    if series.onset_step is None:
        return None
    until = series.worse_from_step if series.worse_from_step is not None else series.first_alarm_step
    left = axis.at(series.onset_step)
    right = left if until is None else axis.at(until)
    # A stretch of no width could not be seen.
    return (left, max(right - left, 0.4))


def _spoken(series: Series, axis: Steps, rows: Sequence[Row]) -> list[str]:
    said = []
    for at, member in enumerate(series.members):
        told = [f"{row.name}: {row.spoken[at]}" for row in rows if at in row.spoken]
        state = [] if member.state == "measured" else [state_of(member)]
        alarms = [
            f"{KINDS[alarm.kind]}: {name_of(series, alarm.signal)}"
            for alarm in series.alarms
            if alarm.step == axis.steps[at]
        ]
        said.append(" · ".join([f"step {member.step:,}", *state, *alarms, *told]))
    return said


def _signal_row(series: Series, key: str, signal: SeriesSignal, axis: Steps) -> Row:
    by_step = {point.step: point for point in signal.points}
    points = [by_step.get(step) for step in axis.steps]
    values = [None if point is None else point.value for point in points]
    line = Line(signal.label, "one", values, [None if point is None else point.ci for point in points])
    best, least = _best(signal, axis), _counts(signal, axis)
    ends = [end for _, value, ci in line.known() for end in (value, *ci)]
    ends += [value for value in (*best, *least) if value is not None]
    limit = signal.limit if _is_near(signal, ends) else None
    scale = scale_of([*ends, *([] if limit is None else [limit])], TALL)
    alarms = alarms_of(series, key)
    parts = [grid_lines(scale), zero_line(scale) if scale.low < 0.0 < scale.high else ""]
    if limit is not None:
        parts.append(_level(scale, limit, "limit"))
    parts.append(_stretched(axis, scale, line, best, least))
    parts += _dots(axis, scale, line, points)
    parts += [_mark(axis, alarm) for alarm in alarms]
    parts += [
        f'<line class="change" x1="{axis.at(change.step):.2f}%" x2="{axis.at(change.step):.2f}%" y1="2" y2="{TALL}"/>'
        for change in signal.change_points
    ]
    unit = unit_in_words(signal.unit)
    return Row(
        "curves",
        signal.label,
        f"{unit}, {signal.better} is better" if signal.better else unit,
        _says(series, signal, alarms, limit),
        Markup("".join(parts)),  # noqa: S704  numbers and names of classes, nothing from outside
        TALL,
        tick_labels(scale, number),
        note="" if limit == signal.limit else f"A limit of {number(signal.limit)} lies beyond what is drawn.",
        spoken={
            at: f"{number(point.value)} {interval(point.ci)}".strip()
            + (f" ({point.of})" if point.of else "")
            + (", surely worse than its best" if point.beyond else "")
            for at, point in enumerate(points)
            if point is not None and point.value is not None
        },
        key=_key(best, least, limit, alarms, changes=bool(signal.change_points)),
    )


def _key(
    best: Sequence[float | None],
    least: Sequence[float | None],
    limit: float | None,
    alarms: Sequence[SeriesAlarm],
    *,
    changes: bool,
) -> tuple[tuple[str, str], ...]:
    there = {
        "one": True,
        "best": any(value is not None for value in best),
        "counts": any(value is not None for value in least),
        "limit": limit is not None,
        "alarm": any(alarm.role == "damage" for alarm in alarms),
        "warning": any(alarm.role == "early_warning" for alarm in alarms),
        "change": changes,
    }
    return tuple((style, label) for style, label in ORDER.items() if there[style])


def _best(signal: SeriesSignal, axis: Steps) -> list[float | None]:
    """The running best, in the signal's unit: the value, less what it has fallen."""
    sign = -1.0 if signal.better == "lower" else 1.0
    return _at_steps(
        axis,
        {
            point.step: point.value + sign * point.fall
            for point in signal.points
            if point.value is not None and point.fall is not None
        },
    )


def _counts(signal: SeriesSignal, axis: Steps) -> list[float | None]:
    """Where the least fall that counts lies below the running best."""
    sign = -1.0 if signal.better == "lower" else 1.0
    return _at_steps(
        axis,
        {
            point.step: point.value + sign * (point.fall - least)
            for point in signal.points
            if point.value is not None
            and point.fall is not None
            and (least := point.least_effect if point.least_effect is not None else signal.least_effect) is not None
        },
    )


def _at_steps(axis: Steps, found: dict[int, float]) -> list[float | None]:
    return [found.get(step) for step in axis.steps]


def _is_near(signal: SeriesSignal, ends: Sequence[float]) -> bool:
    if signal.limit is None or not ends:
        return False
    if signal.limit == 0.0:
        return True
    return max(end / signal.limit for end in ends) >= NEAR


def _stretched(
    axis: Steps, scale: Scale, line: Line, best: Sequence[float | None], least: Sequence[float | None]
) -> str:
    """What is drawn in units that follow the width: bands and lines."""
    parts = []
    for run in line.runs():
        points = [(axis.x(column) * WIDE / 100, value, ci) for column, value, ci in run]
        if any(low < high for *_, (low, high) in points):
            around = [(x, high) for x, _, (_, high) in points] + [(x, low) for x, _, (low, _) in reversed(points)]
            parts.append(f'<polygon class="band one" points="{path_of(around, scale)}"/>')
    for style, values in (("best", best), ("counts", least)):
        for run in Line("", "one", values).runs():
            path = path_of([(axis.x(column) * WIDE / 100, value) for column, value, _ in run], scale)
            parts.append(f'<polyline class="curve {style}" points="{path}"/>')
    for run in line.runs():
        path = path_of([(axis.x(column) * WIDE / 100, value) for column, value, _ in run], scale)
        parts.append(f'<polyline class="curve one" points="{path}"/>')
    return (
        f'<svg x="0" y="0" width="100%" height="{TALL}" viewBox="0 0 {WIDE} {TALL}" preserveAspectRatio="none">'
        f"{''.join(parts)}</svg>"
    )


def _dots(axis: Steps, scale: Scale, line: Line, points: Sequence[object]) -> list[str]:
    """Every checkpoint of a short run; of a long one those that no line reaches."""
    found = []
    for run in line.runs():
        if len(points) > DOTTED and len(run) > 1:
            continue
        for column, value, (low, high) in run:
            x = f"{axis.x(column):.2f}%"
            if len(run) == 1 and low < high:
                found.append(
                    f'<line class="whisker" x1="{x}" x2="{x}" y1="{scale.y(low):.1f}" y2="{scale.y(high):.1f}"/>'
                )
            found.append(f'<circle class="dot" cx="{x}" cy="{scale.y(value):.1f}" r="2.6"/>')
    return found


def _mark(axis: Steps, alarm: SeriesAlarm) -> str:
    """A line at the step at which it was known, with a triangle for who sees no colours: filled for damage, hollow for
    early warning."""
    kind = "alarm" if alarm.role == "damage" else "warning"
    x = f"{axis.at(alarm.step):.2f}%"
    return (
        f'<line class="{kind}" x1="{x}" x2="{x}" y1="2" y2="{TALL}"/>'
        f'<svg x="{x}" y="0" width="1" height="12" overflow="visible">'
        f'<path class="{kind}" d="M-6 1 L6 1 L0 11 Z"/></svg>'
    )


def _level(scale: Scale, value: float, style: str) -> str:
    return f'<line class="{style}" x1="0" x2="100%" y1="{scale.y(value):.1f}" y2="{scale.y(value):.1f}"/>'


def _says(series: Series, signal: SeriesSignal, alarms: Sequence[SeriesAlarm], limit: float | None) -> str:
    known = [point for point in signal.points if point.value is not None]
    first, last = known[0], known[-1]
    told = f"From {number(first.value)} at step {first.step:,} to {number(last.value)} at step {last.step:,}"
    missing = len(series.members) - len(known)
    gap = f"; no value at {missing} of {len(series.members)} checkpoints" if missing else ""
    bound = "" if limit is None else f"; limit {number(limit)}"
    found = "".join(f"; {KINDS[alarm.kind]}, known at step {alarm.step:,}" for alarm in alarms)
    quiet = not_followed(signal) or "no alarm"
    return f"{told}{gap}{bound}{found or f'; {quiet}'}"
