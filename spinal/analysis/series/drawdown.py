"""A signal falls behind the best that it has been (``docs/method.md`` ("Training runs"))."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.series.noise import noise
from spinal.analysis.series.pairing import ROUNDING, differences, ends, present

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fall:
    """One alarm, as places among the members."""

    known: int
    """The second of two consecutive members that are beyond."""
    onset: int
    """The last member of the running best."""
    worse_from: int
    """The first of the two: worse than the best beyond doubt, and by as much as counts."""
    noticed: int
    """The first member after the best from which on, until the alarm, the distance stays beyond the threshold. A drift
    that never amounts to anything may start here long before the break that counts."""


@dataclass(frozen=True, eq=False)
class Drawdown:
    """A signal of n members; NaN, and -1 for a place, at members that lack it."""

    sigma: float
    threshold: float
    fall: Array
    """(n,) how much worse than the running best, paired over prompts; 0 where the member is the best."""
    low: Array
    """(n,) lower end of its interval; NaN where the member is the best, and where it was not asked for."""
    high: Array
    """(n,) its upper end, likewise."""
    distance: Array
    """(n,) fall / (sigma sqrt 2)."""
    least: Array
    """(n,) what ``low`` has to exceed."""
    best: npt.NDArray[np.int64]
    """(n,) the last member of the running best."""
    beyond: npt.NDArray[np.bool_]
    falls: tuple[Fall, ...]
    """One for each running best that two consecutive members fall behind."""

    @property
    def judged(self) -> npt.NDArray[np.int64]:
        """The members that have the signal and could be paired with the best, in order."""
        return np.flatnonzero(self.best >= 0)

    @property
    def last(self) -> int:
        """The last of them."""
        return int(self.judged[-1])

    @property
    def alone(self) -> tuple[int, ...]:
        """Those that are beyond while neither neighbour is: no fall, or none yet."""
        beyond = np.concatenate([[False], self.beyond[self.judged], [False]])
        return tuple(self.judged[beyond[1:-1] & ~beyond[:-2] & ~beyond[2:]].tolist())


def drawdown(
    values: Array,
    threshold: float,
    least: float,
    *,
    of_best: float = 0.0,
    counted: bool = False,
    level: float = 0.95,
    lows_everywhere: bool = True,
) -> Drawdown:
    """Look for falls of a signal ``values`` (n, P), NaN where it was not measured, whose bad side is up.

    A member is beyond where its distance from the running best exceeds ``threshold`` and the lower end of the fall's
    interval (of that ``level``) exceeds both ``least`` and ``of_best`` times as much as the running best is good, below
    0. Two consecutive members beyond, of those that have the signal, are a fall. Lows are left out where nothing
    depends on them unless ``lows_everywhere``.
    """
    n = values.shape[0]
    fall, low, high, distance, effect = (np.full(n, np.nan) for _ in range(5))
    best = np.full(n, -1, dtype=np.int64)
    beyond = np.zeros(n, dtype=bool)
    sigma = noise(values, counted=counted)
    rows = present(values)
    at = -1
    for row in rows:
        change = differences(values[row], values[at]) if at >= 0 else np.zeros(1)
        if not change.size:
            continue
        fell = float(change.mean())
        if fell <= ROUNDING:
            at, fell = int(row), 0.0
        fall[row], best[row] = fell, at
        distance[row] = 0.0 if fell == 0.0 else fell / (sigma * math.sqrt(2.0))
        effect[row] = max(least, of_best * max(0.0, -float(np.nanmean(values[at])))) if of_best else least
        far = bool(distance[row] > threshold)
        if fell > 0.0 and (far or lows_everywhere):
            low[row], high[row] = ends(change, counted=counted, level=level)
        beyond[row] = far and bool(low[row] > effect[row])
    judged = rows[best[rows] >= 0]
    return Drawdown(
        sigma=sigma,
        threshold=threshold,
        fall=fall,
        low=low,
        high=high,
        distance=distance,
        least=effect,
        best=best,
        beyond=beyond,
        falls=_falls(judged, best, beyond, distance > threshold),
    )


def _falls(
    judged: npt.NDArray[np.int64],
    best: npt.NDArray[np.int64],
    beyond: npt.NDArray[np.bool_],
    far: npt.NDArray[np.bool_],
) -> tuple[Fall, ...]:
    found: dict[int, Fall] = {}
    for place in range(1, judged.size):
        before, now = judged[place - 1], judged[place]
        onset = int(best[now])
        # Both fell behind the same best: whoever is beyond is not the best itself.
        if not (beyond[before] and beyond[now]) or onset in found:
            continue
        first = place - 1
        while far[judged[first - 1]] and judged[first - 1] > onset:
            first -= 1
        found[onset] = Fall(int(now), onset, worse_from=int(before), noticed=int(judged[first]))
    return tuple(found.values())
