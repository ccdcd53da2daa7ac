"""Small shifts that stay, on a plateau that somebody has approved: the self-starting CUSUM of Hawkins (1987)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
SLACK = 0.5
"""k: half the shift, in standard deviations, that it is tuned to find."""
FIRST = 2
"""Members before the first that can be scored: their mean and spread."""
CELLS = 200
"""Of the discretised chain; twice as many move the limit by less than 0.01."""
SMALLEST_SPREAD = 1e-6
"""As ``spinal.analysis.series.pairing.ROUNDING``."""
SMALLEST_TAIL = 1e-300
"""Of a member that is out of every proportion: about 37 standard deviations."""


@dataclass(frozen=True)
class Shift:
    """One alarm, as places among the members."""

    known: int
    onset: int
    """The last member before the sum began to grow."""
    shift: float
    """Mean of the members since, up to the alarm, minus the mean of those before."""


def scores(values: Array) -> Array:
    """(n,) standard normal scores of (n,) values that are independent and normal: U_i = Phi^-1(F_{i-1}(T_i)) with
    T_i = sqrt(i / (i + 1)) (x_i - mean) / sd over the i before, F of Student with i - 1 degrees of freedom. NaN for the
    first two."""
    from scipy.special import ndtri, stdtr

    found = np.full(values.size, np.nan)
    count = np.arange(1, values.size, dtype=np.float64)
    # Centred, so that running sums of squares keep their digits.
    centred = values - values[0] if values.size else values
    mean = np.cumsum(centred)[:-1] / count
    squares = np.cumsum(centred * centred)[:-1] - count * mean * mean
    spread = np.sqrt(np.maximum(squares / np.maximum(count - 1.0, 1.0), SMALLEST_SPREAD**2))
    t = (centred[1:] - mean) / (spread * np.sqrt(1.0 + 1.0 / count))
    # By the tail of |t|: near 1 a probability has no digits left.
    tail = np.maximum(stdtr(np.maximum(count - 1.0, 1.0), -np.abs(t)), SMALLEST_TAIL)
    found[FIRST:] = (-np.sign(t) * ndtri(tail))[FIRST - 1 :]
    return found


def cusum(values: Array, level: float) -> tuple[Shift, ...]:
    """The first shift of (n,) values, NaN where a member lacks them, to either side; at most ``level`` of stable series
    have one."""
    rows = np.flatnonzero(np.isfinite(values))
    known = values[rows]
    if known.size <= FIRST:
        return ()
    limit = cusum_limit(known.size - FIRST, level / 2.0)
    scored = scores(known)
    found = [shift for side in (1.0, -1.0) if (shift := _one_side(known, side * scored, limit)) is not None]
    if not found:
        return ()
    first = min(found, key=lambda shift: shift.known)
    return (Shift(int(rows[first.known]), int(rows[first.onset]), first.shift),)


def _one_side(values: Array, scored: Array, limit: float) -> Shift | None:
    total, began = 0.0, FIRST - 1
    for i, score in enumerate(scored.tolist()[FIRST:], FIRST):
        total = max(0.0, total + score - SLACK)
        if total == 0.0:
            began = i
        elif total > limit:
            return Shift(i, began, float(values[began + 1 : i + 1].mean() - values[: began + 1].mean()))
    return None


@lru_cache(maxsize=256)
def cusum_limit(length: int, level: float) -> float:
    """The limit that a one-sided sum of ``length`` standard normal scores with slack ``SLACK`` crosses with probability
    ``level`` (Brook and Evans, 1972: a chain over cells of the sum)."""
    low, high = 0.0, 30.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if crossing_probability(length, middle) > level else (low, middle)
    return high


def crossing_probability(length: int, limit: float) -> float:
    """P(max of S_1..S_length > limit), S_0 = 0, S_i = max(0, S_{i-1} + U_i - ``SLACK``)."""
    from scipy.special import ndtr

    width = 2.0 * limit / (2 * CELLS - 1)
    middles = np.arange(CELLS) * width
    step = middles[None, :] - middles[:, None] + SLACK
    chain = ndtr(step + width / 2) - ndtr(step - width / 2)
    chain[:, 0] = ndtr(step[:, 0] + width / 2)
    inside = np.zeros(CELLS)
    inside[0] = 1.0
    for _ in range(length):
        inside = inside @ chain
    return 1.0 - float(inside.sum())
