"""How sure a mean over prompts is, on its bad side (``docs/method.md`` ("Damage panel")).

The near end of a signal's interval decides whether it is damage. The usual one, mean - t se, has a hole: a prompt that
gets far worse widens the interval by more than it moves the mean, so that a candidate could pass by being worse. The
near end here is the largest mean - t se of all that lies nowhere above the values: it takes the largest values as no
larger than a common cap. It never falls when a prompt gets worse, and never lies above what holds of the mean: a capped
mean is smaller than the mean.
"""

import math

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.analysis.uncertainty import LEVEL, student_quantile

Array = npt.NDArray[np.float64]
HALVINGS = 40
"""Of the range in which a cap is sought: far below rounding."""


def interval(values: Array, *, down: bool = False, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean of (n,) values, whose bad side is up, or ``down``; None below ``MIN_PROMPTS``."""
    if values.size < MIN_PROMPTS:
        return None
    if down:
        low, high = _bad_is_up(-values, level)
        return -high, -low
    return _bad_is_up(values, level)


def standard_error(values: Array) -> float | None:
    """Of the mean of (n,) values; None of a single one."""
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None


def _bad_is_up(values: Array, level: float) -> tuple[float, float]:
    reach = student_quantile(values.size - 1, level) / math.sqrt(values.size)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    return _capped_bound(values, reach, level), mean + reach * spread


def _capped_bound(values: Array, reach: float, level: float) -> float:
    """The largest mean - reach x spread of min(values, cap) over caps.

    Its slope in the cap is positive as long as (cap - mean) / spread lies below (n - 1) / (n reach), and that quotient
    grows with the cap (Cauchy-Schwarz): one change of sign, found by halving.
    """
    n = values.size

    def bound(capped: Array) -> float:
        return float(capped.mean() - reach * capped.std(ddof=1))

    # A cap at the smallest value gives that value, which lies above the median with probability 2^-n.
    if 2.0**-n > (1.0 - level) / 2:
        return bound(values)
    turning = (n - 1) / (n * reach)
    low, high = float(values.min()), float(values.max())

    def rises(cap: float) -> bool:
        capped = np.minimum(values, cap)
        return bool(cap - capped.mean() <= turning * capped.std(ddof=1))

    if low == high or rises(high):
        return bound(values)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) else (low, middle)
    return max(bound(np.minimum(values, low)), float(values.min()), bound(values))


def share_interval(before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_]) -> tuple[float, float] | None:
    """Interval of the change of a share over the same prompts: (n,) each; None below ``MIN_PROMPTS``.

    Agresti and Min (2005): half a prompt is added to each of the four cells, so that 32 of 32 that turn are not known
    without any error."""
    if before.size < MIN_PROMPTS:
        return None
    gained, lost = float((~before & after).sum()) + 0.5, float((before & ~after).sum()) + 0.5
    n = before.size + 2.0
    value = (gained - lost) / n
    reach = 1.96 * math.sqrt(max(gained + lost - n * value**2, 0.0)) / n
    observed = float(after.mean() - before.mean())
    return max(min(value - reach, observed), -1.0), min(max(value + reach, observed), 1.0)
