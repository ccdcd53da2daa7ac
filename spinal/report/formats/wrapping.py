"""Text in lines of so many columns, broken between words: never inside a number or an interval."""

import re

from rich.cells import cell_len, chop_cells

PIECE = re.compile(r"(?:[-+−]?[\d.]+(?:e[+-]?\d+)?%?[*]? )?\[[^\[\]]{1,60}\](?: \*)?\S*|[-+−]?[\d.]+ × 10\S+|\S+")
"""A word, a value with its interval, or a power of ten."""


def wrapped(text: str, width: int, indent: str = "", hanging: str | None = None) -> list[str]:
    """``text`` in lines of at most ``width`` columns; the first begins with ``indent``, others with ``hanging``. Words
    that are wider than a line are cut."""
    later = indent if hanging is None else hanging
    lines, line, used = [], indent, cell_len(indent)
    empty = True
    for piece in PIECE.findall(text):
        for part in _fitting(piece, width - max(cell_len(indent), cell_len(later))):
            size = cell_len(part)
            if not empty and used + 1 + size > width:
                lines.append(line)
                line, used, empty = later, cell_len(later), True
            line += part if empty else f" {part}"
            used += size if empty else size + 1
            empty = False
    return [*lines, line] if not empty else lines


def padded(text: str, width: int, *, right: bool = False) -> str:
    space = " " * max(0, width - cell_len(text))
    return space + text if right else text + space


def _fitting(piece: str, width: int) -> list[str]:
    """The piece, in its words where it is wider than a line, and those cut where they are."""
    if cell_len(piece) <= width:
        return [piece]
    return [part for word in piece.split() for part in (chop_cells(word, width) if cell_len(word) > width else [word])]
