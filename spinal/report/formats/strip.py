"""The change over the depth as a few rows of characters, in plain ASCII where the place to print to shows no others."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spinal.report.content.depth import MARKS, Depth, legend

LABEL = 9
"""Columns of a row's name."""
WIDEST = 3
"""Characters that a block takes at most."""
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Glyphs:
    """The characters that a strip is drawn with."""

    levels: str
    """From the least to the most."""
    same: str
    less: str
    """Of a place that works against the change."""
    early: str
    late: str
    levels_said: str


UNICODE = Glyphs(BARS, "·", "-", "─", "━", "")
ASCII = Glyphs("123456789", ".", "-", "-", "=", "1 is the least and 9 the most. ")


def strip(depth: Depth, width: int, *, plain: bool = False) -> tuple[list[str], list[str]]:
    """(rows, sentences on how to read them); no row is wider than ``width`` columns, of which 30 are enough."""
    glyphs = ASCII if plain else UNICODE
    letters = [letter for letter in MARKS.values() if letter in depth.outside and letter != "E"]
    room = max(width - LABEL - 2 - 2 * len(letters), 1)
    each = math.ceil(depth.blocks / room)
    columns = math.ceil(depth.blocks / each)
    cell = 1 if each > 1 else max(1, min(WIDEST, room // depth.blocks))

    def row(name: str, cells: str, outside: Callable[[str], str]) -> str:
        return (f"{name:{LABEL}}{outside('E')} {cells}" + "".join(f" {outside(letter)}" for letter in letters)).rstrip()

    rows = []
    if depth.carries:
        top = max((value for value in (*depth.carries, *depth.outside.values()) if value is not None), default=0.0)
        cells = _cells(depth, depth.carries, each, cell, top, glyphs)
        rows.append(
            row("carries", cells, lambda letter: _level(depth.outside.get(letter), top, glyphs, zero=glyphs.same))
        )
    if depth.computes:
        top = max((value for value in depth.computes if value is not None), default=0.0)
        rows.append(row("computes", _cells(depth, depth.computes, each, cell, top, glyphs), lambda _: " "))
    axis = _axis(depth, each, cell, columns, glyphs)
    rows.append(row("block", axis, lambda letter: letter if letter in depth.outside else " "))
    return rows, _how_to_read(depth, each, rows, glyphs)


def _cells(depth: Depth, values: tuple[float | None, ...], each: int, cell: int, top: float, glyphs: Glyphs) -> str:
    drawn = []
    for first in range(0, depth.blocks, each):
        blocks = range(first, min(first + each, depth.blocks))
        if all(at + 1 in depth.same for at in blocks):
            drawn.append(glyphs.same)
            continue
        known = [value for at in blocks if (value := values[at]) is not None]
        drawn.append(_level(max(known, key=abs) if known else None, top, glyphs, zero=glyphs.levels[0]))
    return "".join(char * cell for char in drawn)


def _level(value: float | None, top: float, glyphs: Glyphs, *, zero: str) -> str:
    if value is None:
        return " "
    if value == 0.0 or top <= 0.0:
        return zero
    steps = len(glyphs.levels)
    if value < 0.0:
        # Within half a step of nothing it works neither for nor against.
        return glyphs.less if -value > top / (2 * steps) else glyphs.levels[0]
    return glyphs.levels[max(0, math.ceil(steps * value / top - 1e-9) - 1)]


def _axis(depth: Depth, each: int, cell: int, columns: int, glyphs: Glyphs) -> str:
    """Numbers of blocks in a line that is thicker under the last third."""
    first = depth.terminal[0]
    line = [glyphs.late if (at // cell + 1) * each >= first else glyphs.early for at in range(columns * cell)]
    taken: list[tuple[int, int]] = []
    for block in _ticks(depth):
        text = str(block)
        start = min((block - 1) // each * cell, columns * cell - len(text))
        if start < 0 or any(start <= end + 3 and start + len(text) + 2 >= begin for begin, end in taken):
            continue
        taken.append((start, start + len(text) - 1))
        line[start : start + len(text)] = text
    return "".join(line)


def _ticks(depth: Depth) -> Iterable[int]:
    """Blocks worth a number, the ones that matter most first."""
    step = 8 if depth.blocks <= 48 else 16
    return (1, depth.blocks, depth.terminal[0], *range(step, depth.blocks, step))


def _how_to_read(depth: Depth, each: int, rows: list[str], glyphs: Glyphs) -> list[str]:
    drawn = "".join(line[LABEL:] for line in rows[:-1])
    keys = [f"{glyphs.late * 2} the last third, blocks {depth.terminal[0]}-{depth.terminal[1]}"]
    if depth.same:
        keys.insert(0, f"{glyphs.same} the same on both sides")
    if glyphs.less in drawn:
        keys.append(f"{glyphs.less} against the change")
    keys += [f"{letter} {name}" for name, letter in MARKS.items() if letter in depth.outside]
    if each > 1:
        keys.append(f"a column is the largest of {each} blocks")
    return [" ".join(legend(depth)), f"{glyphs.levels_said}{', '.join(keys)}."]
