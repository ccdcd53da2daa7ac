"""Rows of a figure over the depth: bars of places, curves of nodes, cells. Each is SVG without text; labels belong to
the template, which escapes them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup

from spinal.numbers import number, share
from spinal.report.page.axis import Axis, Scale, scale_of

Point = tuple[int, float, tuple[float, float]]
"""(column, value, ends of its interval); both ends are the value where there is none."""
Style = Literal["candidate", "reference", "control", "one", "two"]
WIDE = 1000
"""Units across a drawing of lines, which is stretched to the width there is."""
BAR, TALL = 60, 124
"""Pixels of a row of bars and of a row of curves."""


@dataclass(frozen=True)
class Line:
    """One curve: a value for each column from ``first`` on, None where there is none, and its interval, which need not
    lie evenly around it."""

    label: str
    style: Style
    values: Sequence[float | None]
    ci: Sequence[tuple[float, float] | None] = ()
    first: int = 0

    def known(self) -> list[Point]:
        """Columns with a value."""
        intervals = self.ci or [None] * len(self.values)
        return [
            (self.first + at, value, ci or (value, value))
            for at, (value, ci) in enumerate(zip(self.values, intervals, strict=True))
            if value is not None
        ]

    def banded(self) -> bool:
        """Whether there is an interval to draw."""
        return any(low < high for *_, (low, high) in self.known())

    def runs(self) -> Iterator[list[Point]]:
        """Known columns that follow each other: no line is drawn over a missing value."""
        run: list[Point] = []
        for point in self.known():
            if run and point[0] != run[-1][0] + 1:
                yield run
                run = []
            run.append(point)
        if run:
            yield run


@dataclass(frozen=True)
class Bar:
    """The value of one column, with its interval where it has one."""

    column: int
    value: float
    ci: tuple[float, float] | None = None
    beside: bool = False
    """Whether it is the control's, drawn thin beside the candidate's."""


@dataclass(frozen=True)
class Row:
    """One drawing of a figure."""

    kind: Literal["bars", "curves", "cells", "map"]
    name: str
    unit: str
    """What its value axis counts; empty for a row without one."""
    says: str
    """What is drawn, in a sentence."""
    drawn: Markup
    height: int
    ticks: tuple[tuple[float, str], ...] = ()
    """(y in pixels, label)."""
    key: tuple[tuple[str, str], ...] = ()
    """(style, label) of what has to be told apart."""
    note: str = ""
    spoken: dict[int, str] = field(default_factory=dict)
    """Column -> its value in words, for who points at it."""


def bars(name: str, unit: str, says: str, axis: Axis, found: Sequence[Bar], *, per_cent: bool = False) -> Row:
    """A row of bars from nought, with whiskers."""
    ends = [end for bar in found for end in (bar.value, *(bar.ci or ()))]
    scale = scale_of(ends, BAR, zero=True, most=3)
    wide = 100.0 / axis.columns
    both = any(bar.beside for bar in found)
    parts = [grid_lines(scale), zero_line(scale)]
    for bar in found:
        width = wide * (0.18 if bar.beside else 0.42 if both else 0.66)
        left = axis.x(bar.column) + (wide * 0.18 if bar.beside else -(wide * 0.33))
        top, bottom = sorted((scale.y(bar.value), scale.y(0.0)))
        style = "bar control" if bar.beside else "bar candidate" + (" against" if bar.value < 0.0 else "")
        parts.append(
            f'<rect class="{style}" x="{left:.2f}%" width="{width:.2f}%" y="{top:.1f}" height="{bottom - top:.1f}"/>'
        )
        if bar.ci is not None and bar.ci[0] != bar.ci[1]:
            at = left + width / 2
            parts.append(
                f'<line class="whisker" x1="{at:.2f}%" x2="{at:.2f}%" y1="{scale.y(bar.ci[0]):.1f}" '
                f'y2="{scale.y(bar.ci[1]):.1f}"/>'
            )
    shown: Callable[[float], str] = share if per_cent else number
    return Row(
        "bars",
        name,
        unit,
        says,
        Markup("".join(parts)),  # noqa: S704  numbers and names of classes, nothing from outside
        BAR,
        tick_labels(scale, shown),
        (("candidate", "candidate"), ("control", "control")) if both else (),
        spoken={bar.column: shown(bar.value) for bar in found if not bar.beside},
    )


def curves(name: str, unit: str, says: str, axis: Axis, lines: Sequence[Line], *, note: str = "") -> Row | None:
    """A row of curves with bands; None where no line has a value."""
    drawn = [line for line in lines if line.known()]
    if not drawn:
        return None
    ends = [end for line in drawn for _, value, ci in line.known() for end in (value, *ci)]
    scale = scale_of(ends, TALL)
    parts = []
    for line in drawn:
        for run in line.runs():
            points = [(axis.x(column) * WIDE / 100, value, ci) for column, value, ci in run]
            if any(low < high for *_, (low, high) in points):
                around = [(x, high) for x, _, (_, high) in points]
                around += [(x, low) for x, _, (low, _) in reversed(points)]
                parts.append(f'<polygon class="band {line.style}" points="{path_of(around, scale)}"/>')
            path = path_of([(x, value) for x, value, _ in points], scale)
            parts.append(f'<polyline class="curve {line.style}" points="{path}"/>')
    stretched = (
        f'<svg x="0" y="0" width="100%" height="{TALL}" viewBox="0 0 {WIDE} {TALL}" preserveAspectRatio="none">'
        f"{''.join(parts)}</svg>"
    )
    columns = sorted({column for line in drawn for column, *_ in line.known()})
    spoken = {
        column: " / ".join(
            f"{line.label} {number(value)}" for line in drawn for at, value, _ in line.known() if at == column
        )
        for column in columns
    }
    zero = zero_line(scale) if scale.low < 0.0 < scale.high else ""
    return Row(
        "curves",
        name,
        unit,
        says,
        Markup(grid_lines(scale) + zero + stretched),  # noqa: S704  numbers and names of classes
        TALL,
        tick_labels(scale, number),
        tuple((line.style, line.label) for line in drawn),
        note,
        spoken,
    )


def cells(name: str, says: str, axis: Axis, same: frozenset[int]) -> Row:
    """A row of blocks: outlined where both sides are the same bits."""
    wide = 100.0 / axis.columns
    parts = [
        f'<rect class="cell {"same" if block in same else "changed"}" x="{axis.x(block) - 0.44 * wide:.2f}%" '
        f'width="{0.88 * wide:.2f}%" y="1" height="12" rx="2"/>'
        for block in range(1, axis.blocks + 1)
    ]
    return Row(
        "cells",
        name,
        "",
        says,
        Markup("".join(parts)),  # noqa: S704  numbers and names of classes
        14,
        key=(("changed", "changed"), ("same", "bit-identical")),
        spoken={block: "bit-identical" if block in same else "changed" for block in range(1, axis.blocks + 1)},
    )


def path_of(points: Sequence[tuple[float, float]], scale: Scale) -> str:
    return " ".join(f"{x:.0f},{scale.y(value):.1f}" for x, value in points)


def grid_lines(scale: Scale) -> str:
    return "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{scale.y(tick):.1f}" y2="{scale.y(tick):.1f}"/>'
        for tick in scale.ticks
    )


def zero_line(scale: Scale) -> str:
    return f'<line class="zero" x1="0" x2="100%" y1="{scale.y(0.0):.1f}" y2="{scale.y(0.0):.1f}"/>'


def tick_labels(scale: Scale, shown: Callable[[float], str]) -> tuple[tuple[float, str], ...]:
    return tuple((round(scale.y(tick), 1), shown(tick) if tick else "0") for tick in scale.ticks)
