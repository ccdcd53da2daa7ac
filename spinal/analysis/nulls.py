"""Controls: what the same statistics look like where nothing was aligned (``docs/method.md`` ("Controls"))."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spinal.analysis.localization import terminal_shares
from spinal.documents.comparison import Null

Array = npt.NDArray[np.float64]
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


def self_null(values: Array, observed: float | None) -> Null:
    """The floor: |Delta_align| between two halves of the reference's own prompts, (K,) signed values."""
    sizes = [float(abs(value)) for value in values if np.isfinite(value)]
    size = None if observed is None else abs(observed)
    return Null(
        statistic="|delta_align|",
        values=tuple(sizes),
        observed=size,
        percentile=percentile_of(size, sizes),
        note=(
            "the reference against itself on two random halves of the prompts; the halves share no prompt, so this "
            "floor lies above that of a difference paired over prompts"
        ),
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
