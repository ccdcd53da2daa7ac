"""The figures over the depth: what carries the change, what computes something else, what is bit-identical, and both
sides' own curves, on one axis; and, folded below, the differences with their intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from spinal.documents.account import READ_OUTS, Account
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, Curve, LayerComparison
from spinal.documents.trace import Trace
from spinal.numbers import number
from spinal.report.content.depth import MARKS, depth_of
from spinal.report.page.axis import Axis
from spinal.report.page.rows import Bar, Line, Row, Style, bars, cells, curves

SATURATED = 2
"""The first node whose step has a scale of its own: the step into node 1 reads the bare embeddings, and is as long as
a step can be."""
NORMAL = 1.96
"""Standard errors that a 95% interval is wide on either side."""
Role = Literal["control", "reference", "candidate"]
SIDES: tuple[Role, ...] = ("control", "reference", "candidate")
"""In the order in which they are drawn, the one that is judged on top."""
Positions = Literal["all", "last"]


@dataclass(frozen=True)
class Figure:
    """Rows on one axis."""

    name: str
    axis: Axis
    rows: tuple[Row, ...]
    first: str
    """What the first column is: a place or a node."""

    def columns(self) -> list[tuple[float, float, str]]:
        """(left, width, what every row says there) of every column, per cent of the width."""
        wide = 100.0 / self.axis.columns
        letters = {self.axis.column_of(mark): place for place, mark in MARKS.items() if mark in ("E", *self.axis.after)}
        return [
            (
                column * wide,
                wide,
                " · ".join(
                    [
                        letters.get(column, f"block {column}"),
                        *(f"{row.name.lower()}: {row.spoken[column]}" for row in self.rows if column in row.spoken),
                    ]
                ),
            )
            for column in range(self.axis.columns)
        ]

    def window(self) -> tuple[float, float]:
        """(left, width) of the last third of the blocks, per cent of the width."""
        wide = 100.0 / self.axis.columns
        low, high = self.axis.terminal
        return low * wide, (min(high, self.axis.blocks) - low + 1) * wide


def figures_of(result: Comparison) -> list[Figure]:
    """The figure of the first screen, and the one of differences."""
    extra = any(part.place == "configuration" for account in result.accounts.values() for part in account.places)
    axis = Axis(len(result.layers) - 1, result.scores.terminal_window, ("R", "C") if extra else ("R",))
    first = tuple(
        row
        for row in (_carries(result, axis), _computes(result, axis), _same(result, axis), *_own_curves(result, axis))
        if row is not None
    )
    more = (*_accounts(result, axis), *_differences(result, axis))
    named = (("Over the depth", first), ("Differences with 95% intervals", more))
    return [Figure(name, axis, rows, "embeddings") for name, rows in named if rows]


def _carries(result: Comparison, axis: Axis) -> Row | None:
    depth = depth_of(result)
    if not depth.carries:
        return None
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.statements.carries import speaking

    account = speaking(result.accounts)
    found = [] if account is None else _bars(account, axis, lambda part_share, _: part_share)
    return bars(
        "Carries the change",
        f"share of {depth.of}",
        "Share that each place carries; E embeddings, R read-out" + (", C configuration" if "C" in axis.after else ""),
        axis,
        found,
        per_cent=True,
    )


def _bars(account: Account, axis: Axis, pick: Callable[[Estimate, Estimate], Estimate]) -> list[Bar]:
    found = []
    for part in account.places:
        estimate = pick(part.share, part.phi)
        column = part.block if part.block is not None else axis.column_of(MARKS[part.place])
        if estimate.value is not None:
            found.append(Bar(column, estimate.value, estimate.ci))
    return found


def _computes(result: Comparison, axis: Axis) -> Row | None:
    found = [
        Bar(layer.layer, layer.block_swap.value, layer.block_swap.ci)
        for layer in result.layers[1:]
        if layer.block_swap.value is not None
    ]
    if not found:
        return None
    return bars(
        "Computes something else",
        "of a block's own update",
        "Block swap: how differently a block answers the same input",
        axis,
        found,
    )


def _same(result: Comparison, axis: Axis) -> Row | None:
    same = depth_of(result).same
    if not same:
        return None
    return cells("Tensors", "Blocks that hold the same bits on both sides are outlined", axis, same)


def _own_curves(result: Comparison, axis: Axis) -> tuple[Row | None, ...]:
    if not {"reference", "candidate"} <= result.curves.keys():
        return ()
    return tuple(
        _overlaid(result, axis, member, name, unit, first)
        for member, name, unit, first in (
            ("contraction", "Contraction", "alpha", 0),
            ("transport", "Transport", "L, radians", SATURATED),
        )
    )


def _overlaid(result: Comparison, axis: Axis, member: str, name: str, unit: str, first: int) -> Row | None:
    def curve(role: Role, positions: Positions) -> Curve | None:
        side = result.curves.get(role)
        return None if side is None else getattr(side, positions)

    # Positions 'all' where they have values: 'last' has one row for each prompt, often too few for a fit.
    read: Positions = "all"
    one = curve("candidate", "all")
    if one is not None and all(value is None for value in getattr(one, member)):
        read = "last"
    lines, left = [], []
    for role in SIDES:
        found = curve(role, read)
        if found is not None:
            values, errors = getattr(found, member), getattr(found, f"{member}_se")
            lines.append(Line(role, role, values[first:], _intervals(values[first:], errors[first:]), first))
            left += [] if values[1] is None else [f"{role} {number(values[1])}"]
    says = f"Each side's own curve, positions '{read}'" + (
        "; bands: 95% interval" if any(line.banded() for line in lines) else ""
    )
    return curves(name, unit, says, axis, lines, note=_left_out(left[::-1]) if first == SATURATED else "")


def _left_out(values: list[str]) -> str:
    """What the scale leaves out, with its values."""
    return f"The saturated first step, 0 to 1, is left out of the scale: {', '.join(values)}." if values else ""


def _intervals(values: Sequence[float | None], errors: Sequence[float | None]) -> list[tuple[float, float] | None]:
    return [
        None if value is None or error is None else (value - NORMAL * error, value + NORMAL * error)
        for value, error in zip(values, errors, strict=True)
    ]


def _accounts(result: Comparison, axis: Axis) -> list[Row]:
    """phi of every read-out in nats, the control's thin beside it."""
    rows = []
    for name, account in result.accounts.items():
        found = _bars(account, axis, lambda _, phi: phi)
        control = result.control_accounts.get(name)
        if control is not None:
            beside = _bars(control, axis, lambda _, phi: phi)
            found += [Bar(bar.column, bar.value, bar.ci, beside=True) for bar in beside]
        if found:
            rows.append(
                bars(
                    f"What carries {READ_OUTS.get(name, name)}",
                    "nats",
                    "Parts of the total by place" + ("; the control's thin" if control is not None else ""),
                    axis,
                    found,
                )
            )
    return rows


def _differences(result: Comparison, axis: Axis) -> list[Row]:
    layers = result.layers
    weights = [layer.weight_change for layer in layers]
    made = (
        curves(
            "Function gap",
            "radians",
            _caption("Distance of both sides' next-token distributions at the same node", layers, "function_gap"),
            axis,
            _both(layers, "function_gap"),
        ),
        curves(
            "Weight change",
            "relative",
            "Relative Frobenius change of each block's parameters, which may move where the function does not",
            axis,
            [Line("candidate", "candidate", weights)],
        ),
        curves(
            "Change of contraction",
            "d alpha",
            _caption("Positive is stronger contraction", layers, "d_contraction"),
            axis,
            _both(layers, "d_contraction"),
        ),
        curves(
            "Change of transport",
            "d L, radians",
            _caption("Negative is a shorter step; the first step is left out", layers, "d_transport"),
            axis,
            _both(layers, "d_transport", SATURATED),
        ),
    )
    return [row for row in made if row is not None]


def _both(layers: tuple[LayerComparison, ...], member: str, first: int = 0) -> list[Line]:
    """A line for each choice of positions that has a value."""
    lines: list[Line] = []
    styles: tuple[tuple[Positions, Style], ...] = (("all", "one"), ("last", "two"))
    for positions, style in styles:
        found: list[Estimate] = [getattr(getattr(layer, member), positions) for layer in layers[first:]]
        values, intervals = [one.value for one in found], [one.ci for one in found]
        lines.append(Line(f"positions '{positions}'", style, values, intervals, first))
    return [line for line in lines if line.known()]


def _caption(says: str, layers: tuple[LayerComparison, ...], member: str) -> str:
    """The same with what is drawn of it: one choice of positions or both, with bands or without."""
    lines = _both(layers, member)
    bands = "; bands: 95% interval" if any(line.banded() for line in lines) else ""
    which = "both choices of positions" if len(lines) > 1 else "".join(line.label for line in lines)
    return f"{says}; {which}{bands}" if lines else says


def figure_of_trace(trace: Trace) -> Figure:
    """The curves of one checkpoint."""
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.localization import terminal_window

    terminal = terminal_window(trace.model.n_layers, float(str(trace.profile["terminal_fraction"])))
    axis = Axis(trace.model.n_layers, terminal)
    rows = []
    for member, name, unit, first in (
        ("contraction", "Contraction", "alpha", 0),
        ("transport", "Transport", "L, radians", SATURATED),
        ("entropy", "Entropy", "nats", 0),
    ):
        lines: list[Line] = []
        styles: tuple[tuple[Positions, Style], ...] = (("all", "one"), ("last", "two"))
        for positions, style in styles:
            nodes = [layer.positions[positions] for layer in trace.layers]
            values = [getattr(node, member) for node in nodes]
            intervals = _intervals(values, [getattr(node, f"{member}_se") for node in nodes])
            line = Line(f"positions '{positions}'", style, values[first:], intervals[first:], first)
            lines += [line] if line.known() else []
        says = "By node" + ("; bands: 95% interval" if any(line.banded() for line in lines) else "")
        steps = {positions: trace.layers[1].positions[positions].transport for positions, _ in styles}
        left = [f"positions '{positions}' {number(step)}" for positions, step in steps.items() if step is not None]
        row = curves(name, unit, says, axis, lines, note=_left_out(left) if first == SATURATED else "")
        rows += [] if row is None else [row]
    return Figure("Over the depth", axis, tuple(rows), "node 0")
