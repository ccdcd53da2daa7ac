"""A training run on a terminal: the status with its sentences first, then signals over the steps, then a table."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.series import Series, SeriesMember, SeriesPoint, SeriesSignal, Status
from spinal.numbers import DASH, interval, number, signed
from spinal.report.content import Table
from spinal.report.formats.screen import Page
from spinal.report.formats.strip import BARS
from spinal.report.formats.wrapping import padded

COLOURS: dict[Status, str] = {
    "destabilised": "red",
    "inconclusive": "magenta",
    "insufficient_series": "magenta",
    "watch": "yellow",
    "healthy": "green",
}
FIRST = ("nll_change", "gap", "margin_change")
"""Signals that have a column of the table, where they were measured."""
LABEL = 44
"""Columns of a signal's name at most."""
WIDEST = 3
"""Characters that a step takes at most."""
PLAIN_BARS = "123456789"
FEW = 3
"""Sentences that a short answer holds at most."""


def print_series(document: Series, console: Console, *, brief: bool = False) -> None:
    """The answer as lines of the console's width; ``brief``: nothing beyond status, sentences and plot."""
    page = Page(console)
    page.say(heading(document), "bold")
    _status(page, document)
    for reason in document.reasons[1:FEW] if brief else document.reasons[1:]:
        page.say(reason)
    _plot(page, document)
    if brief:
        return
    page.blank()
    page.table(_table(document))
    _alarms(page, document)
    _unmeasured(page, document.members)
    if document.remarks:
        page.heading("Read with care")
        for remark in document.remarks:
            page.say(remark, indent="! ", hanging="  ")
    page.blank()
    _status(page, document)


def heading(document: Series) -> str:
    """How many checkpoints over which steps, beside what.

    >>> from types import SimpleNamespace as Of
    >>> heading(Of(members=[Of(step=100), Of(step=1200)], reference="local:sft"))
    '2 checkpoints, steps 100 to 1,200, compared with local:sft'
    """
    steps = [member.step for member in document.members]
    if not steps:
        return f"No checkpoints, to be compared with {document.reference}"
    many = f"1 checkpoint, step {steps[0]:,}"
    if len(steps) > 1:
        many = f"{len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,}"
    return f"{many}, compared with {document.reference}"


def series_in_a_few_lines(document: Series) -> tuple[str, ...]:
    """What a command says off a terminal."""
    first, *others = document.reasons or ("",)
    return (heading(document), _first(document, first), *others[: FEW - 1])


def _first(document: Series, reason: str) -> str:
    return f"{_word(document.status)}: {reason}" if reason else _word(document.status)


def _word(status: Status) -> str:
    return status.replace("_", " ").upper()


def _status(page: Page, document: Series) -> None:
    word = _word(document.status)
    first = document.reasons[0] if document.reasons else ""
    lines = list(page.broken(_first(document, first)))
    start = Text(lines[0])
    start.stylize(f"bold {COLOURS[document.status]}", 0, min(len(word), len(lines[0])))
    page.line(start)
    for line in lines[1:]:
        page.line(line)


def _plot(page: Page, document: Series) -> None:
    """Each signal over the steps, from its least to its most value, with a mark under the steps of its alarms."""
    drawn = [(key, signal) for key, signal in document.signals.items() if _values(signal)]
    if len(document.members) < 2 or not drawn:
        return
    page.blank()
    label = min(LABEL, max(len(page.clean(signal.label)) for _, signal in drawn), page.width * 2 // 5)
    ends = {key: _ends(_values(signal)) for key, signal in drawn}
    right = max(len(page.clean(text)) for text in ends.values())
    room = max(page.width - label - right - 4, 8)
    groups = _groups(len(document.members), room)
    wide = max(1, min(WIDEST, room // len(groups)))
    bars, mark = (PLAIN_BARS, "^") if page.plain else (BARS, "▲")
    steps = [member.step for member in document.members]
    for key, signal in drawn:
        by_step = {point.step: point for point in signal.points}
        drawn_row = _cells([by_step.get(step) for step in steps], groups, bars, better=signal.better)
        cells = "".join(char * wide for char in drawn_row)
        name = padded(_short(page.clean(signal.label), label), label)
        page.line(f"{name}  {cells}  {page.clean(ends[key])}")
        alarmed = {alarm.step for alarm in document.alarms if alarm.signal == key}
        if alarmed:
            marks = "".join((mark if any(steps[at] in alarmed for at in group) else " ") * wide for group in groups)
            page.line(f"{' ' * label}  {marks}".rstrip(), "red" if signal.role == "damage" else "yellow")
    first, last = f"step {steps[0]:,}", f"{steps[-1]:,}"
    gap = max(wide * len(groups) - len(first) - len(last), 1)
    page.line(f"{' ' * label}  {first}{' ' * gap}{last}", "dim")
    fullest = "9" if page.plain else "█"
    page.say(
        f"A bar of full height ({fullest}) is the largest value of its row, the lowest the smallest; {mark} a step at "
        "which an alarm was known.",
        "dim",
    )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(most - 3, 0)]}..."


def _values(signal: SeriesSignal) -> list[float]:
    return [point.value for point in signal.points if point.value is not None]


def _ends(values: Sequence[float]) -> str:
    return f"{signed(min(values))} to {signed(max(values))}"


def _groups(members: int, room: int) -> list[range]:
    """Members of each column: one, or as many as it takes to fit."""
    each = -(-members // room)
    return [range(first, min(first + each, members)) for first in range(0, members, each)]


def _cells(points: Sequence[SeriesPoint | None], groups: Sequence[range], bars: str, *, better: str | None) -> str:
    """A bar for each group: of several members the worst one, or the one farthest from nothing."""
    known = [point.value for point in points if point is not None and point.value is not None]
    low, high = min(known), max(known)
    worst = {"lower": max, "higher": min}.get(better or "", lambda values: max(values, key=abs))
    cells = []
    for group in groups:
        values = [point.value for at in group if (point := points[at]) is not None and point.value is not None]
        if not values:
            cells.append(" ")
            continue
        height = 0.0 if high == low else (worst(values) - low) / (high - low)
        cells.append(bars[min(int(height * len(bars)), len(bars) - 1)])
    return "".join(cells)


def _table(document: Series) -> Table:
    shown = list(_columns(document))
    by_step = [{point.step: point for point in signal.points} for _, signal in shown]
    rows = []
    for member in document.members:
        alarms = [alarm for alarm in document.alarms if alarm.step == member.step]
        rows.append(
            (
                f"{member.step:,}",
                member.verdict or member.state,
                *(_value(points.get(member.step)) for points in by_step),
                ", ".join(dict.fromkeys(_name(document, alarm.signal) for alarm in alarms)) or DASH,
            )
        )
    header = ("step", "verdict alone", *(signal.label for _, signal in shown), "alarms known here")
    last = len(header) - 1
    units = "; ".join(f"{signal.label}: {unit_in_words(signal.unit)}" for _, signal in shown)
    note = f"Candidate minus reference, with 95% intervals over prompts{f'. {units}' if units else ''}."
    return Table("Checkpoints", header, tuple(rows), note, narrow=(0, 1, last, *range(2, last)))


def _columns(document: Series) -> Iterator[tuple[str, SeriesSignal]]:
    """The signals of :data:`FIRST`, or the first ones there are where none of those was measured."""
    measured = {key: signal for key, signal in document.signals.items() if _values(signal)}
    chosen = [key for key in FIRST if key in measured] or list(measured)[: len(FIRST)]
    return ((key, measured[key]) for key in chosen)


def _value(point: SeriesPoint | None) -> str:
    if point is None or point.value is None:
        return DASH
    ends = "" if point.ci is None else f" {interval(*point.ci)}"
    return f"{number(point.value)}{ends}"


def _name(document: Series, key: str) -> str:
    signal = document.signals.get(key)
    return key.replace("_", " ") if signal is None else signal.label


def _alarms(page: Page, document: Series) -> None:
    if not document.alarms:
        return
    page.heading("Alarms")
    for alarm in document.alarms:
        role = "damage" if alarm.role == "damage" else "early warning"
        page.say(f"step {alarm.step:,}, {role}: {alarm.text}", indent="- ", hanging="  ")


def _unmeasured(page: Page, members: Sequence[SeriesMember]) -> None:
    out = [member for member in members if member.state != "measured"]
    if out:
        page.heading("Not measured")
    for member in out:
        why = f": {member.reason}" if member.reason else ""
        page.say(f"step {member.step:,}, {member.state}{why}", indent="- ", hanging="  ")
