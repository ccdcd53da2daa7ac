"""Where the line that a signal follows breaks, for signals that move in every healthy run (``docs/method.md``
("Training runs"))."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from spinal.analysis.series.pairing import ROUNDING
from spinal.analysis.uncertainty import student_quantile

Array = npt.NDArray[np.float64]
MINIMUM = 4
"""Members on each side of a change point."""


@dataclass(frozen=True)
class Break:
    """One change point, as places among the members."""

    at: int
    """The last member of the segment before."""
    known: int
    """The first member at which the same break at the same place could be told."""
    change: float
    """The line after minus the line before, at the last member of the segment after."""
    low: float
    """How far the 95% interval of ``change`` stays away from 0; negative where it does not."""
    before: float
    """Slope, per member."""
    after: float


def change_points(values: Array, level: float) -> tuple[Break, ...]:
    """Change points of (n,) values, NaN where a member lacks them, in order.

    Two lines, each over at least ``MINIMUM`` members and free to jump between them, are tested against one by F with 2
    and n - 4 degrees of freedom, at ``level`` over the number of places where they could meet (Bonferroni); the best
    place of the largest segment is taken first, and both halves are looked at again (binary segmentation). Exact for
    independent normal members about a line; what curves smoothly has change points, too, so that whoever calls asks for
    a least effect.
    """
    rows = np.flatnonzero(np.isfinite(values))
    known = values[rows]
    if known.size < 2 * MINIMUM:
        return ()
    cuts = _cuts(known, 0, known.size, level)
    ends = [0, *cuts, known.size]
    found = []
    for (start, cut), (_, end) in zip(pairwise(ends), pairwise(ends[1:]), strict=False):
        change, low, before, after = _compare(known[start:end], cut - start)
        told = _told(known, start, cut, end, level)
        found.append(Break(int(rows[cut - 1]), int(rows[told]), change, low, before, after))
    return tuple(found)


def _cuts(values: Array, start: int, end: int, level: float) -> list[int]:
    """First members of the segments after a break, between ``start`` and ``end``."""
    if end - start < 2 * MINIMUM:
        return []
    tails = break_tails(values[start:end])
    cut = start + MINIMUM + int(np.argmin(tails))
    if float(tails.min()) * tails.size > level:
        return []
    return [*_cuts(values, start, cut, level), cut, *_cuts(values, cut, end, level)]


def break_tails(values: Array) -> Array:
    """(n - 2 ``MINIMUM`` + 1,) P(F >= observed) of one line against two that meet before member ``MINIMUM``, ..,
    n - ``MINIMUM`` of (n,) values."""
    from scipy.special import fdtrc

    n = values.size
    places = np.arange(MINIMUM, n - MINIMUM + 1)
    whole = _residual(values, np.array([0]), np.array([n]))[0]
    halves = _residual(values, np.zeros_like(places), places) + _residual(values, places, np.full_like(places, n))
    # Rounding is not evidence.
    halves = np.maximum(halves, n * ROUNDING**2)
    statistic = np.maximum(whole - halves, 0.0) / 2.0 / (halves / (n - 4))
    return np.asarray(fdtrc(2.0, float(n - 4), statistic))


def _residual(values: Array, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> Array:
    """Residual sums of squares of lines over members start..end - 1, from running sums of centred values."""
    x = np.arange(values.size, dtype=np.float64) - (values.size - 1) / 2
    y = values - values.mean()
    sums = np.zeros((5, values.size + 1))
    np.cumsum(np.stack([x, y, x * x, x * y, y * y]), axis=1, out=sums[:, 1:])
    sx, sy, sxx, sxy, syy = sums[:, end] - sums[:, start]
    n = end - start
    vx, vxy, vy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
    return np.maximum(vy - vxy * vxy / vx, 0.0)


def _compare(values: Array, cut: int) -> tuple[float, float, float, float]:
    """Of (n,) values that break before ``cut``: the change at the end, how far its interval stays away from 0, and the
    slopes before and after."""
    n, end = values.size, values.size - 1
    lines = []
    for part, places in ((values[:cut], np.arange(cut)), (values[cut:], np.arange(cut, n))):
        centre = float(places.mean())
        spread = float(((places - centre) ** 2).sum())
        slope = float(((places - centre) * part).sum()) / spread
        there = float(part.mean()) + slope * (end - centre)
        residual = float(((part - part.mean() - slope * (places - centre)) ** 2).sum())
        lines.append((slope, there, residual, 1.0 / part.size + (end - centre) ** 2 / spread))
    (before, old, left, far), (after, new, right, near) = lines
    error = max((left + right) / (n - 4), ROUNDING**2) * (far + near)
    change = new - old
    return change, abs(change) - student_quantile(n - 4) * error**0.5, before, after


def _told(values: Array, start: int, cut: int, end: int, level: float) -> int:
    """The first member at which the break before ``cut`` is told by the members since ``start``."""
    most = end - start - 2 * MINIMUM + 1
    for last in range(cut + MINIMUM, end):
        tails = break_tails(values[start:last])
        if tails[cut - start - MINIMUM] * most <= level:
            return last - 1
    return end - 1
