"""Tables as lines of text: as many columns as fit, numbers and intervals whole, words to the left."""

import math
import re
from collections.abc import Sequence

from rich.cells import cell_len

from spinal.numbers import DASH
from spinal.report.content import Table
from spinal.report.formats.wrapping import padded, wrapped

GAP = "  "
NUMERIC = re.compile(rf"[-+−<{DASH}]?\s?\d.*|[-{DASH}]|")
"""A cell that is aligned to the right: a number, with what belongs to it, or none."""
PROSE = 30
"""Columns from which on a cell is broken into lines."""
NARROWEST = 16
"""Columns that a column of words has at least."""
FOLDED = 40
"""Rows from which on those that tell least are folded."""
KEPT = 16
"""Rows that stay then, beside those that always do."""


def drawn(table: Table, width: int) -> list[str]:
    """The header, a line, the rows and the note of ``table``, no line wider than ``width``."""
    chosen = _chosen(table, width)
    lines = _rows(table, chosen, width)
    left = [name for at, name in enumerate(table.header) if at not in chosen]
    note = f"{table.note} Left out at this width: {', '.join(left)}." if left else table.note
    return [*lines, *wrapped(note, width)]


def _chosen(table: Table, width: int) -> list[int]:
    """Columns that fit, in their order: those that matter least go first, and the first one never."""
    order = [*table.narrow, *(at for at in range(len(table.header)) if at not in table.narrow)]
    while len(order) > 1 and _least(table, order) > width:
        order.pop()
    return sorted(order)


def _least(table: Table, chosen: Sequence[int]) -> int:
    return sum(_smallest(table, at) for at in chosen) + len(GAP) * (len(chosen) - 1)


def _cells(table: Table, at: int) -> list[str]:
    return [table.header[at], *(row[at] for row in table.rows)]


def _natural(table: Table, at: int) -> int:
    return max(cell_len(cell) for cell in _cells(table, at))


def _is_prose(table: Table, at: int) -> bool:
    return _natural(table, at) > PROSE and not all(NUMERIC.fullmatch(row[at]) for row in table.rows)


def _smallest(table: Table, at: int) -> int:
    natural = _natural(table, at)
    return min(natural, NARROWEST) if _is_prose(table, at) else natural


def _widths(table: Table, chosen: Sequence[int], width: int) -> list[int]:
    """Every column as wide as it needs; columns of words share what is left."""
    natural = [_natural(table, at) for at in chosen]
    prose = [place for place, at in enumerate(chosen) if _is_prose(table, at)]
    left = width - len(GAP) * (len(chosen) - 1) - sum(size for at, size in enumerate(natural) if at not in prose)
    for number, place in enumerate(sorted(prose, key=lambda place: natural[place])):
        natural[place] = min(natural[place], max(1, left // (len(prose) - number)))
        left -= natural[place]
    if len(chosen) == 1:
        natural[0] = min(natural[0], width)
    return natural


def _rows(table: Table, chosen: Sequence[int], width: int) -> list[str]:
    widths = _widths(table, chosen, width)
    right = [all(NUMERIC.fullmatch(row[at]) for row in table.rows) for at in chosen]
    lines = _line([table.header[at] for at in chosen], widths, right)
    lines.append(GAP.join("-" * size for size in widths))
    for row in _folded(table):
        lines += [row] if isinstance(row, str) else _line([row[at] for at in chosen], widths, right)
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    """One row; as many lines as its longest cell needs."""
    blocks = [
        [cell] if cell_len(cell) <= size else wrapped(cell, size) for cell, size in zip(cells, widths, strict=True)
    ]
    return [
        GAP.join(
            padded(block[at] if at < len(block) else "", size, right=to_the_right)
            for block, size, to_the_right in zip(blocks, widths, right, strict=True)
        ).rstrip()
        for at in range(max(len(block) for block in blocks))
    ]


def _folded(table: Table) -> list[tuple[str, ...] | str]:
    """The rows; in a long table runs of those that tell least as a line that says how many they are."""
    if len(table.rows) <= FOLDED or not table.weight:
        return list(table.rows)
    finite = sorted((weight for weight in table.weight if not math.isinf(weight)), reverse=True)
    least = finite[min(KEPT, len(finite)) - 1]
    shown: list[tuple[str, ...] | str] = []
    run: list[tuple[str, ...]] = []
    for row, weight in zip(table.rows, table.weight, strict=True):
        if weight < least or weight == 0.0:
            run.append(row)
            continue
        shown += _run(run, table.header[0])
        run = []
        shown.append(row)
    return shown + _run(run, table.header[0])


def _run(rows: Sequence[tuple[str, ...]], of: str) -> list[tuple[str, ...] | str]:
    if len(rows) < 3:
        return list(rows)
    first, last = (f"{of} {name}" if name.isdecimal() else name for name in (rows[0][0], rows[-1][0]))
    return [f"  ... {first} to {last}: {len(rows)} quieter rows"]
