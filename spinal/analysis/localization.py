"""Where a change concentrates in depth (``docs/method.md`` section 4). Profiles run over blocks 1..D."""

from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from spinal.analysis.uncertainty import percentile_interval
from spinal.comparison import Localization

Array = npt.NDArray[np.float64]
NO_CHANGE = "no_detectable_change"
WITH_INTERVAL = ("center", "spread", "terminal_share", "gini", "effective_blocks")


def terminal_window(depth: int, fraction: float) -> tuple[int, int]:
    """First and last block of T = {ceil(fraction * D)..D}; rational arithmetic, so that D = 30 gives 21..30."""
    exact = Fraction(repr(fraction)) * depth
    return max(1, -(-exact.numerator // exact.denominator)), depth


def soft_threshold(values: Array, threshold: Array) -> Array:
    """max(0, |values| - threshold); a missing threshold or value counts as no change."""
    return np.nan_to_num(np.maximum(np.abs(values) - threshold, 0.0), nan=0.0)


def smallest_window(profile: Array, share: float) -> tuple[int, int]:
    """Smallest run of blocks (1-based, inclusive) holding ``share`` of a profile (D,) with positive sum; among
    equally small runs the heaviest, then the earliest."""
    sums = np.concatenate([[0.0], np.cumsum(profile)])
    depth, needed = profile.size, share * sums[-1] * (1.0 - 1e-12)
    for width in range(1, depth + 1):
        held = sums[width:] - sums[:-width]
        best = int(np.argmax(held))
        if held[best] >= needed:
            return best + 1, best + width
    return 1, depth


def summary(profiles: Array, terminal: tuple[int, int]) -> dict[str, Array]:
    """Concentration statistics of non-negative profiles (M, D): each an (M,) array, NaN where a profile is
    all zero."""
    depth = profiles.shape[1]
    total = profiles.sum(axis=1, keepdims=True)
    q = np.divide(profiles, total, out=np.full(profiles.shape, np.nan), where=total > 0)
    x = np.arange(1, depth + 1) / depth
    center = q @ x
    logs = np.log(np.where(q > 0, q, 1.0))
    ranks = np.arange(1, depth + 1)
    return {
        "center": center,
        # Var(x) around each centre, not E x^2 - (E x)^2: a single block must give exactly 0.
        "spread": np.sqrt((q * (x - center[:, None]) ** 2).sum(axis=1)),
        "gini": (np.sort(q, axis=1) * (2 * ranks - depth - 1)).sum(axis=1) / depth,
        "effective_blocks": np.exp(-(q * logs).sum(axis=1)),
        "terminal_share": q[:, terminal[0] - 1 : terminal[1]].sum(axis=1),
    }


def localize(
    profile: Array, terminal: tuple[int, int], draws: Array | None = None, *, reason: str = NO_CHANGE
) -> Localization:
    """Localization of a non-negative profile (D,), with intervals from ``draws`` (n, D) of it where given.

    A profile without any change gives nulls and ``reason``.
    """
    depth = profile.size
    null_share = (terminal[1] - terminal[0] + 1) / depth
    if not np.isfinite(profile).all() or profile.sum() <= 0.0:
        empty: dict[str, Any] = dict.fromkeys((*WITH_INTERVAL, "window50", "window80", "peak"))
        return Localization(**empty, terminal_share_null=null_share, ci={}, reason=reason)
    values = {name: float(value[0]) for name, value in summary(profile[None], terminal).items()}
    intervals, support = _intervals(profile, terminal, draws)
    return Localization(
        **values,
        window50=smallest_window(profile, 0.5),
        window80=smallest_window(profile, 0.8),
        terminal_share_null=null_share,
        peak=int(np.argmax(profile)) + 1,
        ci=intervals,
        peak_support=support,
    )


def _intervals(
    profile: Array, terminal: tuple[int, int], draws: Array | None
) -> tuple[dict[str, tuple[float, float]], float | None]:
    if draws is None:
        return {}, None
    changed = draws[draws.sum(axis=1) > 0.0]
    # Where most draws see no change at all, an interval over the others would be an interval over noise.
    if changed.shape[0] < draws.shape[0] // 2:
        return {}, None
    drawn = summary(changed, terminal)
    support = float(np.mean(np.argmax(changed, axis=1) == int(np.argmax(profile))))
    return {name: percentile_interval(drawn[name]) for name in WITH_INTERVAL}, support
