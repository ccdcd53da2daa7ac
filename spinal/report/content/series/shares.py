"""What carries the change at every checkpoint, place by place: the map over steps and depth."""

import re
from dataclasses import dataclass

from spinal.documents.series import Series

BLOCK = re.compile(r"block (\d{1,6})")
MOST_COLUMNS, MOST_ROWS = 100, 100
"""Cells of a map on either side; of longer runs and deeper models a cell is the largest of several."""


@dataclass(frozen=True)
class ShareMap:
    """Shares over steps and depth, (rows, columns)."""

    places: tuple[str, ...]
    """From the embeddings to the read-out, one for each row."""
    cells: tuple[tuple[float | None, ...], ...]
    """The share that lies farthest from nought among those of a cell; None where there is no account."""
    steps_each: int
    """Checkpoints of a column; the last column may have fewer."""
    places_each: int
    """Blocks of a row; 1 but for very deep models."""
    top: float
    """The largest share."""


def share_map(series: Series) -> ShareMap | None:
    """None where no checkpoint has an account."""
    rows = _rows(places_of(series))
    members = series.members
    steps_each = -(-len(members) // MOST_COLUMNS)
    cells = []
    for _, places in rows:
        row: list[float | None] = []
        for first in range(0, len(members), max(steps_each, 1)):
            of_cell = [
                value
                for member in members[first : first + steps_each]
                for place in places
                if (value := member.carried.get(place)) is not None
            ]
            row.append(max(of_cell, key=abs) if of_cell else None)
        cells.append(tuple(row))
    known = [abs(value) for row in cells for value in row if value is not None]
    if not known:
        return None
    each = max(len(places) for _, places in rows)
    return ShareMap(tuple(name for name, _ in rows), tuple(cells), steps_each, each, max(known))


def places_of(series: Series) -> list[str]:
    """Every place that carries something, in the order of the depth; those that are no block and not known by name come
    last."""
    order = {"embeddings": (0, 0), "read-out": (2, 0), "configuration": (3, 0)}
    found = dict.fromkeys(place for member in series.members for place in member.carried)

    def key(place: str) -> tuple[int, int]:
        block = BLOCK.fullmatch(place)
        return (1, int(block[1])) if block else order.get(place, (4, 0))

    return sorted(found, key=key)


def largest(carried: dict[str, float], most: int = 3) -> list[tuple[str, float]]:
    """The places that carry most, the first one first."""
    return sorted(carried.items(), key=lambda item: -item[1])[:most]


def _rows(places: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """(name, places) of every row: blocks together where there are too many."""
    blocks = [place for place in places if BLOCK.fullmatch(place)]
    others = len(places) - len(blocks)
    each = -(-len(blocks) // max(MOST_ROWS - others, 1))
    if each <= 1 or others >= MOST_ROWS:
        return [(place, (place,)) for place in places[:MOST_ROWS]]
    rows: list[tuple[str, tuple[str, ...]]] = []
    run: list[str] = []
    for place in places:
        if place in blocks and len(run) < each:
            run.append(place)
            continue
        rows += [_together(run)] if run else []
        run = [place] if place in blocks else []
        rows += [] if run else [(place, (place,))]
    return [*rows, *([_together(run)] if run else [])]


def _together(run: list[str]) -> tuple[str, tuple[str, ...]]:
    name = run[0] if len(run) == 1 else f"blocks {run[0].removeprefix('block ')}-{run[-1].removeprefix('block ')}"
    return name, tuple(run)
