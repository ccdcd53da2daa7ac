"""The change over the depth, block by block, ready to be drawn in a row."""

from collections.abc import Sequence
from dataclasses import dataclass

from spinal.documents.account import READ_OUTS, Account
from spinal.documents.comparison import Comparison
from spinal.numbers import number, share

MARKS = {"embeddings": "E", "read-out": "R", "configuration": "C"}
"""Places outside the blocks, as one letter."""
Row = tuple[float | None, ...]
"""One value for each block; None where there is none."""


@dataclass(frozen=True)
class Depth:
    """What a strip over the depth shows, for D blocks."""

    blocks: int
    terminal: tuple[int, int]
    """First and last block of the last third."""
    same: frozenset[int]
    """Blocks that are the same on both sides."""
    carries: Row
    """(D,) share of the change that each block carries; empty where there are no shares."""
    outside: dict[str, float]
    """The same by the letter of a place outside the blocks."""
    of: str
    """The change that they carry, in words; or why no shares are shown."""
    computes: Row
    """(D,) block swap; empty where it was not measured."""


def depth_of(result: Comparison) -> Depth:
    layers = result.layers[1:]
    swap = tuple(layer.block_swap.value for layer in layers)
    same = set(result.unchanged_blocks) | {
        layer.layer for layer in layers if layer.weight_change == 0.0 and layer.block_swap.value == 0.0
    }
    carries, outside, of = _carried(result, len(layers))
    return Depth(
        blocks=len(layers),
        terminal=result.scores.terminal_window,
        same=frozenset(same),
        carries=carries,
        outside=outside,
        of=of,
        computes=() if all(value is None for value in swap) else swap,
    )


def _carried(result: Comparison, blocks: int) -> tuple[Row, dict[str, float], str]:
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.statements.carries import speaking

    account = speaking(result.accounts)
    if account is None:
        return (), {}, "not measured"
    if account.reason is not None or all(part.share.value is None for part in account.places):
        return (), {}, f"no shares ({(account.reason or 'not measured').replace('_', ' ')})"
    row: list[float | None] = [None] * blocks
    outside = {}
    for part in account.places:
        if part.block is not None and part.block <= blocks:
            row[part.block - 1] = part.share.value
        elif part.share.value is not None and part.place in MARKS:
            outside[MARKS[part.place]] = part.share.value
    return tuple(row), outside, _named(account)


def _named(account: Account) -> str:
    return READ_OUTS.get(account.read_out, account.read_out)


def legend(depth: Depth) -> tuple[str, ...]:
    """What the strip shows, in sentences."""
    said = []
    if depth.carries:
        largest = _largest(depth.carries)
        outside = "".join(f", {letter} {share(part)}" for letter, part in depth.outside.items() if part)
        said.append(f"Carries: share of {depth.of} (largest: {largest[0]}, {share(largest[1])}{outside}).")
    else:
        said.append(f"What carries the change: {depth.of}.")
    if depth.computes:
        largest = _largest(depth.computes)
        most = f"largest: {largest[0]}, {number(largest[1])}" if largest[1] else "0 everywhere"
        said.append(f"Computes: how differently a block answers the same input ({most}).")
    else:
        said.append("What computes something else: not measured.")
    return tuple(said)


def _largest(row: Sequence[float | None]) -> tuple[str, float]:
    """The block of the largest value, by name, and the value."""
    value, block = max((value, -at) for at, value in enumerate(row, start=1) if value is not None)
    return f"block {-block}", value
