"""One depth axis for everything that is drawn, and value axes with round ticks.

Across, positions are per cent of the drawing's width, so that text keeps its size on any screen; down, pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

MOST_LABELS = 9
CROWDED = 20
FULL = 60
"""Columns from which a letter and the number beside it would touch on a phone, and on any screen."""
STEPS = (1.0, 2.0, 5.0, 10.0)
"""A step between ticks is one of these times a power of ten."""


@dataclass(frozen=True)
class Axis:
    """Columns 0..D+1 or more: the embeddings, D blocks, the read-out, and what else an account has a place for."""

    blocks: int
    terminal: tuple[int, int]
    """First and last block of the last third."""
    after: tuple[str, ...] = ()
    """Letters of the columns behind the last block."""

    @property
    def columns(self) -> int:
        return self.blocks + 1 + len(self.after)

    def x(self, column: float) -> float:
        """Middle of a column, per cent of the width. Node l of a curve stands where block l does."""
        return 100.0 * (column + 0.5) / self.columns

    def column_of(self, letter: str) -> int:
        """Of a place outside the blocks."""
        return 0 if letter == "E" else self.blocks + 1 + self.after.index(letter)

    def place(self, text: str) -> Markup:
        """How a label stands at its column: where columns are narrow, letters lean away from the numbers beside them,
        and stand below them where that is not enough."""
        if self.columns < CROWDED or not (text == "E" or text in self.after):
            return Markup('text-anchor="middle"')
        kind = "letter low" if self.columns > FULL else "letter"
        anchor = "end" if text == "E" else "start"
        return Markup(f'class="{kind}" text-anchor="{anchor}"')  # noqa: S704  words of this function alone

    def names(self) -> list[tuple[float, str]]:
        """(x, label) of the labelled columns: letters, round block numbers, the first and the last."""
        every = max(1, math.ceil(self.blocks / MOST_LABELS))
        every = next((step for step in (1, 2, 4, 5, 8, 10, 16, 20, 25, 50, 100) if step >= every), every)
        numbered = [at for at in range(every, self.blocks + 1, every) if self.blocks - at >= every / 2]
        blocks = sorted({1, *(at for at in numbered if at - 1 >= every / 2), self.blocks})
        letters = [(self.column_of(letter), letter) for letter in self.after]
        return [(self.x(column), text) for column, text in [(0, "E"), *((at, str(at)) for at in blocks), *letters]]


@dataclass(frozen=True)
class Scale:
    """A value axis: ``low`` at the bottom of ``height`` pixels below ``top``."""

    low: float
    high: float
    height: float
    top: float = 4.0
    ticks: tuple[float, ...] = ()

    def y(self, value: float) -> float:
        within = min(max(value, self.low), self.high)
        return self.top + (self.high - within) / (self.high - self.low) * (self.height - self.top - 4.0)


def scale_of(values: Sequence[float], height: float, *, zero: bool = False, most: int = 4) -> Scale:
    """The scale that holds all values, and nought where bars start at ``zero``, with round ticks inside."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        high = low + (abs(low) or 1.0)
    step = step_of(low, high, most)
    margin = 0.06 * (high - low)
    low, high = low - (0.0 if zero and low == 0.0 else margin), high + (0.0 if zero and high == 0.0 else margin)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, height, ticks=tuple(round(k * step, 12) for k in range(first, last + 1)))


def step_of(low: float, high: float, most: int) -> float:
    """The least step of 1, 2 or 5 times a power of ten that gives at most so many steps between two values."""
    size = (high - low) / most
    power = 10.0 ** math.floor(math.log10(size))
    return next(factor * power for factor in STEPS if factor * power >= size * (1.0 - 1e-9))
