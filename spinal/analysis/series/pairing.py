"""One signal of several members over the same prompts: n members, P prompts."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.bounds import interval, share_interval
from spinal.analysis.damage.limits import MIN_PROMPTS

Array = npt.NDArray[np.float64]
ROUNDING = 1e-6
"""Nats, radians or shares of answers: differences below are rounding of one value, and noise is never less."""


def aligned(members: Sequence[tuple[Sequence[int], Sequence[float]] | None]) -> tuple[tuple[int, ...], Array]:
    """The prompts (P,) that any member has, ascending, and its values (n, P) on them, NaN where it has none. A member
    is its prompts and their values, or None.

    >>> prompts, values = aligned([((1, 3), (0.5, 0.25)), None, ((3, 4), (0.0, 1.0))])
    >>> prompts
    (1, 3, 4)
    >>> values[2].tolist()
    [nan, 0.0, 1.0]
    """
    prompts = tuple(sorted({prompt for member in members if member is not None for prompt in member[0]}))
    column = {prompt: place for place, prompt in enumerate(prompts)}
    values = np.full((len(members), len(prompts)), np.nan)
    for row, member in enumerate(members):
        if member is not None:
            values[row, [column[prompt] for prompt in member[0]]] = member[1]
    return prompts, values


def present(values: Array) -> npt.NDArray[np.int64]:
    """Which members of (n, P) have a value on enough prompts to be judged; the others are stepped over."""
    return np.flatnonzero(np.isfinite(values).sum(axis=1) >= MIN_PROMPTS)


def differences(later: Array, earlier: Array) -> Array:
    """(m,) later - earlier over the prompts that both have; empty where these are too few."""
    change = later - earlier
    known = change[np.isfinite(change)]
    return known if known.size >= MIN_PROMPTS else known[:0]


def squared_error(change: Array, *, counted: bool = False) -> float:
    """Squared standard error of the mean of (m,) paired differences.

    ``counted`` differences are -1, 0 or 1; half a prompt is added to each cell as for the panel's interval of shares
    (``spinal.analysis.damage.bounds.share_interval``): of answers that all stayed the same the error is not 0.
    """
    if not counted:
        return float(change.var(ddof=1)) / change.size
    n = change.size + 2.0
    mean = float(change.sum()) / n
    return max(float(np.abs(change).sum()) + 1.0 - n * mean**2, 0.0) / n**2


def ends(change: Array, *, counted: bool = False, level: float = 0.95) -> tuple[float, float]:
    """Interval of the mean of (m,) paired differences whose bad side is up, as the damage panel has it: its lower end
    never falls when a prompt gets worse."""
    found = share_interval(change < 0.0, change > 0.0) if counted else interval(change, level=level)
    if found is None:
        return np.nan, np.nan
    mean = float(change.mean())
    return min(found[0], mean), max(found[1], mean)
