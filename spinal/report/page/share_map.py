"""What carries the change as a map over steps and depth: squares whose area is the share, so that it is read in print
and without colours, too."""

import math
import re

from markupsafe import Markup

from spinal.numbers import share
from spinal.report.content.depth import MARKS
from spinal.report.content.series.shares import ShareMap
from spinal.report.page.rows import Row

CELL = 20
"""Units of a cell on either side, before it is stretched."""
LEVELS = 9
"""Sizes of a square: the side grows evenly, so its area is the share."""
TALLEST, HEIGHT = 18, 560
"""Pixels of a row, and of a whole map where rows can be so low."""
LOWEST = 5
LABELS = 15
"""Pixels between two labels of rows."""
ROW = re.compile(r"blocks? [\d-]+")


def drawn_map(shares: ShareMap, members: int) -> Row:
    """The map of ``members`` checkpoints as a row of a figure."""
    rows = len(shares.places)
    each = max(LOWEST, min(TALLEST, HEIGHT // rows))
    levels: dict[tuple[bool, int], list[str]] = {}
    missing = []
    for column in range(len(shares.cells[0])):
        left = column * shares.steps_each * CELL
        wide = min(shares.steps_each, members - column * shares.steps_each) * CELL
        if all(row[column] is None for row in shares.cells):
            missing.append(f"M{left + wide / 2:.0f} 0V{rows * CELL}")
            continue
        for at, row in enumerate(shares.cells):
            level = level_of(row[column], shares.top)
            if level:
                part = level / LEVELS
                high, across = CELL * part, wide * part
                x, y = left + (wide - across) / 2, at * CELL + (CELL - high) / 2
                levels.setdefault(((row[column] or 0.0) < 0.0, level), []).append(
                    f"M{x:.0f} {y:.0f}h{across:.0f}v{high:.0f}h-{across:.0f}z"
                )
    parts = [f'<rect class="ground" width="{members * CELL}" height="{rows * CELL}"/>']
    parts += [f'<path class="missing" d="{"".join(missing)}"/>'] if missing else []
    parts += _tints(shares, members)
    parts += [
        f'<path class="cell {"against" if against else "changed"}" d="{"".join(paths)}"/>'
        for (against, _), paths in sorted(levels.items())
    ]
    height = rows * each
    drawn = (
        f'<svg x="0" y="0" width="100%" height="{height}" viewBox="0 0 {members * CELL} {rows * CELL}" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg>'
    )
    return Row(
        "map",
        "Carries the change",
        "share of the change of KL(reference || candidate)",
        f"The larger the mark, the larger the share, up to "
        f"{share(shares.top)}; embeddings at the top, the read-out at the bottom" + _grouped(shares),
        Markup(drawn),  # noqa: S704  numbers and names of classes, nothing from outside
        height,
        _names(shares, each),
        tuple((f"level-{level}", share(at)) for level, at in legend(shares.top))
        + ((("against", "against the change"),) if any(against for against, _ in levels) else ())
        + ((("missing", "no account"),) if missing else ()),
    )


def _tints(shares: ShareMap, members: int) -> list[str]:
    """The same as colour behind the squares, cells that are alike in one: it shows at a distance what squares show
    close by."""
    levels: dict[int, list[str]] = {}
    for at, row in enumerate(shares.cells):
        column = 0
        while column < len(row):
            level, first = _tint(row[column], shares.top), column
            while column < len(row) and _tint(row[column], shares.top) == level:
                column += 1
            if level:
                left, right = first * shares.steps_each * CELL, min(column * shares.steps_each, members) * CELL
                levels.setdefault(level, []).append(f"M{left} {at * CELL}H{right}v{CELL}H{left}z")
    return [
        f'<path class="tint" opacity="{0.08 * level:.2f}" d="{"".join(paths)}"/>'
        for level, paths in sorted(levels.items())
    ]


def _tint(value: float | None, top: float) -> int:
    return level_of(value, top) if value is not None and value > 0.0 else 0


def level_of(value: float | None, top: float) -> int:
    """0 to ``LEVELS``: side of the square, in parts of the cell. Nothing that is there is drawn as nothing, but for
    what lies below a thousandth of the largest."""
    if value is None or top <= 0.0 or abs(value) < 1e-3 * top:
        return 0
    return max(1, round(LEVELS * math.sqrt(abs(value) / top)))


def legend(top: float) -> list[tuple[int, float]]:
    """(level, share) of some sizes, from small to the largest."""
    return [(level, top * (level / LEVELS) ** 2) for level in (2, 4, 6, LEVELS)]


def _grouped(shares: ShareMap) -> str:
    said = []
    if shares.steps_each > 1:
        said.append(f"{shares.steps_each} checkpoints")
    if shares.places_each > 1:
        said.append(f"{shares.places_each} blocks")
    return f". A cell is the largest of {' and '.join(said)}" if said else ""


def _names(shares: ShareMap, each: int) -> tuple[tuple[float, str], ...]:
    """(y of the middle, label) of rows, as many as there is room for: letters first, then blocks at even distances."""
    every = next((step for step in (1, 2, 4, 5, 8, 10, 16, 20, 25, 50) if step * each >= LABELS), 100)
    chosen: list[tuple[float, str]] = []

    def add(at: int, text: str) -> None:
        y = (at + 0.5) * each
        if all(abs(y - other) >= LABELS - 2 for other, _ in chosen):
            chosen.append((y, text))

    # The largest account names everything outside the blocks; what it does not know has no letter.
    for at, place in enumerate(shares.places):
        if place in MARKS:
            add(at, MARKS[place])
    blocks = [(at, place.split()[-1]) for at, place in enumerate(shares.places) if ROW.fullmatch(place)]
    for at, text in ([blocks[0], blocks[-1]] if blocks else []) + blocks[every - 1 :: every]:
        add(at, text)
    return tuple(sorted(chosen))
