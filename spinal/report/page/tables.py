"""Tables for the template: every cell with how it is set, every row with the block that it is about."""

import re
from dataclasses import dataclass

from spinal.report.content.address import is_address
from spinal.report.content.cells import DASH, Table

NUMBER = re.compile(r"[+−-]?[\d.,]+( ?%)?( × 10\S+)?( ± \S+)?( \[[^\]]*\])?( ?\*)?")
BLOCK = re.compile(r"(?:block )?(\d+)(?: \(the same\))?")
SHORT = 34
"""Characters up to which a cell is not broken into lines."""


@dataclass(frozen=True)
class Cell:
    text: str
    style: str
    """``n``: a number, never broken, to the right; ``s``: some words on one line; ``t``: a text."""


@dataclass(frozen=True)
class Shown:
    """A table as it is set."""

    title: str
    note: str
    header: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    columns: tuple[int | None, ...]
    """For each row the column of the depth axis, or of the axis of steps, that it is about."""
    links: tuple[str | None, ...]
    """For each row where its first cell leads."""


def shown(table: Table) -> Shown:
    width = len(table.header)
    numeric = [_numeric([row[at] for row in table.rows]) for at in range(width)]
    by_block = bool(table.header) and table.header[0] in ("layer", "place")
    columns = tuple(_column(row[0]) if by_block else None for row in table.rows)
    if table.header[:1] == ("step",):
        # One row for each checkpoint, and so has the axis.
        columns = tuple(range(len(table.rows)))
    links = table.links or (None,) * len(table.rows)
    return Shown(
        table.title,
        table.note,
        tuple(Cell(text, "n" if numeric[at] else "s") for at, text in enumerate(table.header)),
        tuple(tuple(_cell(text, numeric=numeric[at]) for at, text in enumerate(row)) for row in table.rows),
        columns,
        tuple(link if link is not None and is_address(link) else None for link in links),
    )


def _numeric(cells: list[str]) -> bool:
    """Whether a column holds numbers, and at most dashes beside."""
    told = [cell for cell in cells if cell not in (DASH, "")]
    return bool(told) and all(NUMBER.fullmatch(cell) for cell in told)


def _cell(text: str, *, numeric: bool) -> Cell:
    if numeric or NUMBER.fullmatch(text):
        return Cell(text, "n" if numeric else "s")
    return Cell(text, "s" if len(text) <= SHORT else "t")


def _column(name: str) -> int | None:
    found = BLOCK.fullmatch(name)
    return 0 if name.startswith("embeddings") else int(found[1]) if found else None
