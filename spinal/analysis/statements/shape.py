"""How a nonnegative profile lies over the places that changed: outliers, bands, spread (``docs/method.md``
("The sentence")). ``n`` places, in order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
SHARE = Fraction(4, 5)
FEWEST = 5
"""Places below which a median and its scatter say nothing of the rest."""
FAR = 5.0
"""Median absolute deviations above the median."""
EVEN = 0.2
"""Scatter, relative to the median, that any profile is granted: what is not twice the median is no outlier, however
even the rest is."""
BY_CHANCE = 0.01
"""Among few places normal scatter alone goes beyond ``FAR``: an outlier lies where it does that more rarely than so."""
HOLDS = 2.0
"""An outlier holds at least this many times a flat profile's part: where nearly all lies in one place, the median of
the others is next to nothing, and so would be an outlier above it."""
CHANCE_DRAWS = 4000
SPREAD = 0.8
"""A window is as good as the whole where it is this part of the flat profile's, or longer."""
APART = 0.7
"""Two windows inside one run are said only where they are together at most this part of the one window."""


@dataclass(frozen=True)
class Outliers:
    """Places far above the others."""

    places: tuple[int, ...]
    """Indices."""
    share: float
    """Of the whole profile."""
    chance: float
    """How often one of ``n`` places with normal scatter lies as far above the rest as the lowest of these."""


@dataclass(frozen=True)
class Bands:
    """The shortest one or two windows that hold ``SHARE`` of a profile; none crosses places that did not change."""

    windows: tuple[tuple[int, int], ...]
    """First and last block of each; empty where no two windows hold enough."""
    needed: int
    """Changed blocks inside the windows, or all."""
    flat: int
    """Blocks that a flat profile would need."""
    spread: bool
    """Whether that is about what a flat profile would need."""


def flat_need(count: int) -> int:
    """Blocks, of ``count``, that a flat profile needs for ``SHARE``.

    >>> flat_need(24), flat_need(7)
    (20, 6)
    """
    return math.ceil(SHARE * count)


def outliers(weights: Array, sure: npt.NDArray[np.bool_] | None = None) -> Outliers:
    """Places of a profile (n,) above median + ``FAR`` MAD, at least ``FEWEST`` places. Only those that are ``sure``
    (n,), where it is given: a place that cannot be told from 0 stands out of nothing."""
    nothing = Outliers((), 0.0, 1.0)
    if weights.size < FEWEST or not weights.any():
        return nothing
    middle = float(np.median(weights))
    scatter = max(float(np.median(np.abs(weights - middle))), EVEN * middle)
    farthest = _farthest(weights.size)
    far = weights > middle + max(FAR, float(np.quantile(farthest, 1 - BY_CHANCE))) * scatter
    found = np.flatnonzero(far & (weights >= HOLDS * weights.mean()) & (True if sure is None else sure))
    if not found.size:
        return nothing
    distance = float((weights[found].min() - middle) / scatter) if scatter > 0.0 else math.inf
    chance = float(np.mean(farthest >= distance))
    return Outliers(tuple(int(i) for i in found), float(weights[found].sum() / weights.sum()), chance)


@lru_cache(maxsize=64)
def _farthest(count: int) -> Array:
    """(CHANCE_DRAWS,) how many MAD the highest of ``count`` normal values lies above their median."""
    drawn = np.random.default_rng([count, CHANCE_DRAWS]).standard_normal((CHANCE_DRAWS, count))
    middle = np.median(drawn, axis=1)
    scatter = np.median(np.abs(drawn - middle[:, None]), axis=1)
    farthest: Array = (drawn.max(axis=1) - middle) / scatter
    return farthest


def bands(weights: Array, blocks: Sequence[int], changed_runs: Sequence[tuple[int, int]]) -> Bands:
    """Where ``SHARE`` of a profile (n,) over ``blocks`` sits.

    ``blocks`` are numbers of blocks, rising; ``changed_runs`` are the runs of blocks that changed, between which blocks
    are identical. A block that is in a run and not in ``blocks`` (an outlier, said before) parts nothing.
    """
    numbers = np.asarray(blocks)
    groups = [np.flatnonzero((numbers >= low) & (numbers <= high)) for low, high in changed_runs]
    groups = [group for group in groups if group.size]
    needed = float(SHARE) * float(weights.sum()) * (1 - 1e-12)
    flat = flat_need(len(blocks))
    one = _shortest_one(weights, groups, needed)
    two = _shortest_two(weights, [(a, b) for a, b in combinations(groups, 2)], needed)
    if one is None and len(groups) == 2 and two is not None and _length(two) >= SPREAD * flat:
        # Both runs are meant whole: a window that leaves out one block of each end would say less.
        two = tuple((int(group[0]), int(group[-1])) for group in groups)
    found = one if two is None or (one is not None and _length(one) <= _length(two)) else two
    if found is not None and len(found) == 1:
        halves = [(g[:cut], g[cut:]) for g in groups for cut in range(1, g.size)]
        apart = _shortest_two(weights, halves, needed)
        if apart is not None and _length(apart) <= APART * _length(found) and _length(found) - _length(apart) > 2:
            found = apart
    if found is None:
        return Bands((), len(blocks), flat, spread=True)
    length = _length(found)
    whole = tuple((int(numbers[low]), int(numbers[high])) for low, high in found)
    return Bands(whole, length, flat, spread=length >= SPREAD * flat and len(found) == 1)


Windows = tuple[tuple[int, int], ...]


def _length(windows: Windows) -> int:
    return sum(high - low + 1 for low, high in windows)


def _shortest_one(weights: Array, groups: Sequence[npt.NDArray[np.intp]], needed: float) -> Windows | None:
    best: tuple[int, float, Windows] | None = None
    for group in groups:
        for length, (mass, start) in enumerate(_heaviest(weights[group]), 1):
            if mass >= needed:
                found = (length, -mass, ((int(group[0]) + start, int(group[0]) + start + length - 1),))
                best = found if best is None else min(best, found)
                break
    return None if best is None else best[2]


def _shortest_two(
    weights: Array, pairs: Sequence[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]], needed: float
) -> Windows | None:
    best: tuple[int, float, Windows] | None = None
    for early, late in pairs:
        mine, theirs = _heaviest(weights[early]), _heaviest(weights[late])
        reach = len(theirs)
        for length, (mass, start) in enumerate(mine, 1):
            # The longer the first window, the shorter the second may be.
            while reach > 1 and mass + theirs[reach - 2][0] >= needed:
                reach -= 1
            total, other = mass + theirs[reach - 1][0], theirs[reach - 1][1]
            if total < needed:
                continue
            first, second = int(early[0]) + start, int(late[0]) + other
            windows = ((first, first + length - 1), (second, second + reach - 1))
            found = (length + reach, -total, windows)
            best = found if best is None else min(best, found)
    return None if best is None else best[2]


def _heaviest(weights: Array) -> list[tuple[float, int]]:
    """For every length 1..n the largest mass that a window of that length holds, and where it starts."""
    sums = np.concatenate([[0.0], np.cumsum(weights)])
    found = []
    for length in range(1, weights.size + 1):
        mass = sums[length:] - sums[:-length]
        start = int(np.argmax(mass >= mass.max() * (1 - 1e-12)))
        found.append((float(mass[start]), start))
    return found
