"""Where along the depth a change sits (``docs/method.md`` ("Where the change sits")). Profiles run over blocks 1..D."""

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from spinal.analysis.uncertainty import corrected_interval, percentile_interval, thresholded_interval
from spinal.documents.localization import NO_CHANGE, Localization

Array = npt.NDArray[np.float64]
MEMBERS = ("center", "spread", "gini", "effective_blocks", "terminal_share")
BIASED = ("gini", "effective_blocks")
"""Noise makes every profile look more concentrated; ``corrected_interval`` says what is done about it."""
THRESHOLDED = ("center", "terminal_share")
"""Members of a clipped or soft-thresholded profile that have an interval: its spread and concentration depend on the
threshold so much that none covers (``docs/method.md`` ("Uncertainty"))."""


def terminal_window(n_layers: int, fraction: float) -> tuple[int, int]:
    """First and last block of T = {ceil(fraction * D)..D}.

    The product is exact in the decimal that was written: in floats 0.7 * 30 is 21.000000000000004 on some
    paths and its ceiling 22.
    """
    first = math.ceil(Fraction(repr(float(fraction))) * n_layers)
    return max(1, first), n_layers


def soft_threshold(values: Array, se: Array) -> Array:
    """max(0, |value| - se): what is left of a change beyond its noise. Unknown values count as no change."""
    return np.nan_to_num(np.maximum(np.abs(values) - se, 0.0), nan=0.0)


def localize(
    profile: Array,
    replicates: Array | None,
    terminal: tuple[int, int],
    *,
    absent: str | None = None,
    clipped: bool = False,
    plain: Array | None = None,
) -> Localization:
    """Place of a nonnegative profile (D,); ``replicates`` (B, D) give intervals. ``clipped`` says that the profile
    was made nonnegative by clipping or thresholding; ``plain`` (D,) is what it was before a threshold took something
    off every block.

    ``absent`` names why there is nothing to place although the profile may hold noise; an all-zero profile
    has no place either. Raises ValueError for negative or non-finite weights.
    """
    if profile.ndim != 1 or profile.size == 0 or not np.isfinite(profile).all() or (profile < 0.0).any():
        raise ValueError("a profile to localise is a non-empty vector of finite, nonnegative weights")
    share_null = (terminal[1] - terminal[0] + 1) / profile.size
    # Scaling by the largest weight first keeps sums of subnormal or huge weights finite and nonzero.
    largest = float(profile.max())
    if absent is not None or largest == 0.0:
        return _nowhere(share_null, absent or NO_CHANGE)
    scaled = profile / largest
    center, spread, gini, blocks, share = (float(member) for member in _moments(scaled[None, :], terminal)[:, 0])
    return Localization(
        center=center,
        spread=spread,
        window50=smallest_window(scaled, Fraction(1, 2)),
        window80=smallest_window(scaled, Fraction(4, 5)),
        gini=gini,
        effective_blocks=blocks,
        terminal_share=share,
        terminal_share_null=share_null,
        peak=int(np.argmax(profile)) + 1,
        ci={}
        if replicates is None
        else _intervals(
            scaled, replicates / largest, terminal, clipped=clipped, plain=None if plain is None else plain / largest
        ),
        peak_support=None if replicates is None else _peak_support(replicates, int(np.argmax(profile))),
    )


def smallest_window(profile: Array, share: Fraction) -> tuple[int, int]:
    """Shortest contiguous run of blocks (first, last) holding ``share`` of the profile; ties go to the
    larger mass, then to the earlier run."""
    cumulative = np.concatenate([[0.0], np.cumsum(profile)])
    # An ulp of slack: a run that holds the share exactly must not be lost to the rounding of a sum.
    needed = float(share) * cumulative[-1] * (1 - 1e-12)
    for length in range(1, profile.size + 1):
        mass = cumulative[length:] - cumulative[:-length]
        if (mass >= needed).any():
            best = float(mass.max())
            start = int(np.argmax(mass >= best * (1 - 1e-12)))
            return start + 1, start + length
    return 1, profile.size


def terminal_shares(profiles: Array, terminal: tuple[int, int]) -> Array:
    """(B,) share of each profile (B, D) inside blocks terminal[0]..terminal[1]; NaN for an empty profile."""
    total = profiles.sum(axis=1)
    inside = profiles[:, terminal[0] - 1 : terminal[1]].sum(axis=1)
    return np.where(total > 0.0, inside / np.where(total > 0.0, total, 1.0), np.nan)


def _moments(profiles: Array, terminal: tuple[int, int]) -> Array:
    """(5, B): center, spread, Gini, effective blocks, terminal share of each row of (B, D); NaN rows where
    a profile is empty."""
    blocks = profiles.shape[1]
    total = profiles.sum(axis=1, keepdims=True)
    q = np.where(total > 0.0, profiles / np.where(total > 0.0, total, 1.0), np.nan)
    depth = np.arange(1, blocks + 1) / blocks
    center = q @ depth
    spread = np.sqrt(np.maximum(np.sum(q * (depth - center[:, None]) ** 2, axis=1), 0.0))
    ordered = np.sort(q, axis=1)
    gini = ordered @ (2 * np.arange(1, blocks + 1) - blocks - 1) / blocks
    entropy = -np.sum(np.where(q > 0.0, q * np.log(np.where(q > 0.0, q, 1.0)), 0.0), axis=1)
    effective = np.where(np.isfinite(center), np.exp(entropy), np.nan)
    return np.stack([center, spread, gini, effective, terminal_shares(profiles, terminal)])


def _intervals(
    profile: Array, replicates: Array, terminal: tuple[int, int], *, clipped: bool, plain: Array | None
) -> dict[str, tuple[float, float]]:
    values, moments = _moments(profile[None, :], terminal)[:, 0], _moments(replicates, terminal)
    if not np.isfinite(moments).any(axis=1).all():
        return {}
    usual = percentile_interval(moments.T)
    blocks = float(profile.size)
    floor = np.array([1.0 if name == "effective_blocks" else 0.0 for name in MEMBERS])
    ceiling = np.array([blocks if name == "effective_blocks" else 1.0 for name in MEMBERS])
    if plain is None:
        corrected = corrected_interval(values, moments.T, floor, ceiling)
    else:
        corrected = thresholded_interval(values, _moments(plain[None, :], terminal)[:, 0], moments.T, floor, ceiling)
    found = {}
    for i, name in enumerate(MEMBERS):
        if clipped and name not in THRESHOLDED:
            continue
        low, high = (corrected if clipped or name in BIASED else usual)[:, i]
        found[name] = (float(low), float(high))
    return found


def _peak_support(replicates: Array, peak: int) -> float | None:
    placed = replicates[replicates.max(axis=1) > 0.0]
    return float(np.mean(np.argmax(placed, axis=1) == peak)) if placed.size else None


def _nowhere(share_null: float, reason: str) -> Localization:
    return Localization(
        center=None,
        spread=None,
        window50=None,
        window80=None,
        gini=None,
        effective_blocks=None,
        terminal_share=None,
        terminal_share_null=share_null,
        peak=None,
        ci={},
        reason=reason,
    )
