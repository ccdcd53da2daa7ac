"""Contraction: the decay exponent of a layer's singular values (``docs/method.md`` ("Contraction alpha")).

alpha = minus the least-squares slope of log sigma_k on log k over a window of ranks (ranks count from 1).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.documents.trace import WINDOWS

Array = npt.NDArray[np.float64]
CURVED_ABOVE = 0.1
"""A fit is flagged when its quadratic coefficient exceeds this share of alpha."""


@dataclass(frozen=True)
class Fit:
    """Fit over ranks k_min..k_max; ``alpha`` None comes with ``reason``."""

    alpha: float | None
    curvature: float | None
    k_min: int
    k_max: int
    reason: str | None = None

    @property
    def curved(self) -> bool | None:
        if self.alpha is None or self.curvature is None:
            return None
        return abs(self.curvature) > CURVED_ABOVE * abs(self.alpha)


def numerical_rank(singular_values: Array, n_rows: int, tolerance: float) -> int:
    """r = min(n - 1, d, #{sigma_k > tolerance * sigma_1}); singular values (d or n,), descending."""
    if singular_values.size == 0 or singular_values[0] <= 0.0:
        return 0
    above = int(np.count_nonzero(singular_values > tolerance * singular_values[0]))
    return max(0, min(n_rows - 1, singular_values.size, above))


def window_ranks(rank: int) -> dict[str, tuple[int, int]]:
    """First and last rank of every window for numerical rank ``rank`` (integer arithmetic: 0.05 r has no
    exact float)."""
    return {
        "bulk": (max(1, -(-5 * rank // 100)), 30 * rank // 100),
        "body": (max(1, -(-10 * rank // 100)), 50 * rank // 100),
        "wide": (max(1, -(-10 * rank // 100)), 90 * rank // 100),
        "tail": (rank // 2 + 1, rank),
    }


def slope_weights(k_min: int, k_max: int) -> Array:
    """c_k = -x_k / sum x^2, x the centred log k: alpha = sum_k c_k log sigma_k over k_min..k_max."""
    log_k = np.log(np.arange(k_min, k_max + 1, dtype=np.float64))
    centred = log_k - log_k.mean()
    return np.asarray(-centred / np.dot(centred, centred))


def fit_window(singular_values: Array, k_min: int, k_max: int, *, min_ranks: int) -> Fit:
    """Least squares over one window; ``insufficient_rank`` when it holds fewer than ``min_ranks`` ranks."""
    if k_max - k_min + 1 < max(3, min_ranks):
        return Fit(None, None, k_min, k_max, "insufficient_rank")
    log_sigma = np.log(singular_values[k_min - 1 : k_max])
    alpha = float(np.dot(slope_weights(k_min, k_max), log_sigma))
    return Fit(alpha, _curvature(log_sigma, k_min, k_max), k_min, k_max)


def _curvature(log_sigma: Array, k_min: int, k_max: int) -> float:
    log_k = np.log(np.arange(k_min, k_max + 1, dtype=np.float64))
    x = log_k - log_k.mean()
    # The quadratic term made orthogonal to constant and line: its coefficient is that of the full fit.
    q = x**2 - (x**2).mean()
    q -= x * (np.dot(q, x) / np.dot(x, x))
    return float(np.dot(q, log_sigma) / np.dot(q, q))


def fit_windows(singular_values: Array, rank: int, *, min_ranks: int) -> dict[str, Fit]:
    """All four windows of a spectrum: singular values descending, numerical rank ``rank``."""
    if rank == 0:
        return {name: Fit(None, None, 1, 0, "constant") for name in WINDOWS}
    return {
        name: fit_window(singular_values, low, high, min_ranks=min_ranks)
        for name, (low, high) in window_ranks(rank).items()
    }


def alpha_influence(energies: Array, eigenvalues: Array, fit: Fit, *, rows: int | None) -> Array:
    """Infinitesimal jackknife of alpha over prompts, (P,), mean zero.

    ``energies`` (P, r): sum over the prompt's centred rows of (h . v_k)^2; ``eigenvalues`` (r,): sums of
    squares along v_k, so that energies sum to them over prompts. IF_p = P/2 sum_k c_k energies_pk / lambda_k,
    centred (``docs/method.md`` ("Uncertainty")); se^2 = mean IF^2 / (P - 1).

    ``rows``, how many gave the spectrum, blends directions that so few cannot tell apart (:func:`blended_weights`).
    None gives the derivative alone, which holds for changes smaller than the distance of neighbouring eigenvalues:
    the errors of traces before engine 4, for differences too wide by a tenth to a half.
    """
    prompts = energies.shape[0]
    if fit.alpha is None:
        return np.full(prompts, np.nan)
    if rows is None:
        window = slice(fit.k_min - 1, fit.k_max)
        weights = slope_weights(fit.k_min, fit.k_max) / eigenvalues[window]
        influence = 0.5 * prompts * (energies[:, window] @ weights)
    else:
        influence = 0.5 * prompts * (energies @ blended_weights(eigenvalues, fit, rows))
    return np.asarray(influence - influence.mean())


def blended_weights(eigenvalues: Array, fit: Fit, rows: int) -> Array:
    """(r,) weight of the energy along each direction in alpha's influence: c_k / lambda_k, spread over neighbours.

    Sampling n rows turns v_k towards v_j by an angle of variance lambda_k lambda_j / (n (lambda_k - lambda_j)^2), which
    for neighbours is about 1: which of them is called the k-th is chance, and so is a prompt's energy along it. alpha
    does not move by that, but the derivative does, most of all at the ends of the window, beyond which the weight
    falls to 0. So each weight is spread with shares proportional to
    lambda_k lambda_j / (lambda_k lambda_j + 2 n (lambda_k - lambda_j)^2), a saturated form of that variance.
    On real subsamples the error is then 0.99 to 1.04 of the spread of differences, instead of 1.04 to 1.26.
    """
    inside = slice(fit.k_min - 1, fit.k_max)
    # Relative to the largest: squares of tiny eigenvalues must not vanish.
    scaled = eigenvalues / eigenvalues[0]
    product = scaled[inside, None] * scaled[None, :]
    spread = product / (product + 2 * rows * (scaled[inside, None] - scaled[None, :]) ** 2)
    spread /= spread.sum(axis=1, keepdims=True)
    moved = slope_weights(fit.k_min, fit.k_max) @ spread
    return np.where(eigenvalues > 0.0, moved / np.where(eigenvalues > 0.0, eigenvalues, 1.0), 0.0)


def influence_se(influence: Array) -> Array:
    """Standard error from influences on the last axis: sqrt(mean IF^2 / (P - 1)); NaN for a single prompt."""
    prompts = influence.shape[-1]
    if prompts < 2:
        return np.full(influence.shape[:-1], np.nan)
    return np.asarray(np.sqrt(np.mean(influence**2, axis=-1) / (prompts - 1)))


def grouped_se(leave_out: Array) -> Array:
    """Delete-group jackknife over the last axis (G groups): sqrt((G-1)/G sum (alpha_(g) - mean)^2)."""
    groups = leave_out.shape[-1]
    spread = leave_out - leave_out.mean(axis=-1, keepdims=True)
    return np.asarray(np.sqrt((groups - 1) / groups * np.sum(spread**2, axis=-1)))


def effective_rank(singular_values: Array) -> float | None:
    """exp of the entropy of sigma / sum sigma; None for a constant layer."""
    total = float(singular_values.sum())
    if total <= 0.0:
        return None
    share = singular_values[singular_values > 0.0] / total
    return float(math.exp(-np.dot(share, np.log(share))))


def participation_ratio(singular_values: Array) -> float | None:
    """(sum sigma^2)^2 / sum sigma^4; None for a constant layer."""
    energy = singular_values**2
    fourth = float(np.dot(energy, energy))
    return float(energy.sum()) ** 2 / fourth if fourth > 0.0 else None


def top_share(singular_values: Array) -> float | None:
    """sigma_1 / sum sigma; None for a constant layer."""
    total = float(singular_values.sum())
    return float(singular_values[0]) / total if total > 0.0 else None


def singular_values_of_rows(rows: Array) -> Array:
    """Singular values of the column-centred rows (n, d), descending, from the float64 Gram of the smaller
    side. The engine does the same in torch; this is the form that tests and notebooks read."""
    centred = rows - rows.mean(axis=0)
    small = centred.T @ centred if rows.shape[0] >= rows.shape[1] else centred @ centred.T
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(small)[::-1], 0.0)))
