"""Controls: what the same statistics look like where nothing was aligned (``docs/method.md`` ("Controls"))."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spinal.analysis.localization import terminal_shares
from spinal.documents.comparison import Null

Array = npt.NDArray[np.float64]
KEPT = 200
"""Draws that a comparison holds of the floor: a percentile in steps of half a percent."""
SPLITS = 64
"""Random halves behind the floor; enough for a percentile in steps of 1.6."""


def percentile_of(observed: float | None, values: Sequence[float]) -> float | None:
    """Percentile (0-100) of ``observed`` among ``values``, ties counted half; None with fewer than two values."""
    if observed is None or len(values) < 2:
        return None
    below = sum(value < observed for value in values)
    ties = sum(value == observed for value in values)
    return 100.0 * (below + 0.5 * ties) / len(values)


def split_shares(prompts: int, seed: int) -> tuple[Array, Array]:
    """(SPLITS, P) shares of the first and of the second half of random splits of the prompts (at least two)."""
    generator = np.random.default_rng([seed, prompts, SPLITS])
    half = prompts // 2
    order = np.argsort(generator.random((SPLITS, prompts)), axis=1)
    first, second = np.zeros((SPLITS, prompts)), np.zeros((SPLITS, prompts))
    np.put_along_axis(first, order[:, :half], 1 / half, axis=1)
    np.put_along_axis(second, order[:, half:], 1 / (prompts - half), axis=1)
    return first, second


def self_null(draws: Array, observed: float | None) -> Null:
    """The floor: what the choice of prompts makes of |Delta_align| where the candidate is no other than the reference.

    ``draws`` (B,) are bootstrap draws of Delta_align on the same prompts for both sides, ``observed`` its value. A
    reference against itself on the same prompts differs by exactly 0, which is no floor for a candidate that differs
    from prompt to prompt and not on average. That one's Delta_align scatters around 0 as the draws scatter around the
    observed value, so their deviations from it are what it would have been. Two halves of the prompts, the floor before
    scorer 4, differ in prompts as well, by more than a healthy DPO changes.
    """
    known = draws[np.isfinite(draws)][:KEPT]
    return _floor(
        [] if observed is None else [float(abs(draw - observed)) for draw in known],
        observed,
        "what the choice of prompts makes of it where there is no change on average: deviations of bootstrap draws, "
        "the same prompts for both sides",
    )


def halves_null(values: Array, observed: float | None) -> Null:
    """The floor before scorer 4: |Delta_align| between two halves of the reference's own prompts, (K,) signed."""
    return _floor(
        [float(abs(value)) for value in values if np.isfinite(value)],
        observed,
        "the reference against itself on two random halves of the prompts; the halves share no prompt, so this "
        "floor lies above that of a difference paired over prompts",
    )


def _floor(sizes: list[float], observed: float | None, note: str) -> Null:
    size = None if observed is None else abs(observed)
    return Null(
        statistic="|delta_align|",
        values=tuple(sizes),
        observed=size,
        percentile=percentile_of(size, sizes),
        note=note,
    )


def depth_null(profile: Array, terminal: tuple[int, int]) -> Null:
    """Terminal share of the block-swap profile (D,) against all its circular shifts along the depth."""
    note = "the same profile moved around the depth: how special its place at the end is"
    statistic = "terminal share of block_swap"
    if profile.size < 2 or not profile.any():
        return Null(statistic=statistic, values=(), observed=None, percentile=None, note=note)
    shares = terminal_shares(np.stack([np.roll(profile, shift) for shift in range(profile.size)]), terminal)
    observed, values = float(shares[0]), [float(share) for share in shares[1:]]
    return Null(
        statistic=statistic,
        values=tuple(values),
        observed=observed,
        percentile=percentile_of(observed, values),
        note=note,
    )
