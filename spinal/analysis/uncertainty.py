"""Intervals over prompts (``docs/method.md`` ("Uncertainty")). The prompt is the sampling unit throughout.

Means (L, entropy, gaps, block swap) are resampled by a bootstrap; alpha is linearised through its influences
first, because repeating prompts changes a spectrum by itself. Both use the same draws, so that quantities
built from several of them keep their covariance. B draws, P prompts, N nodes.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from spinal.analysis.contraction import grouped_se, influence_se
from spinal.documents.base import Estimate, missing
from spinal.documents.capture import ReplicateKind

Array = npt.NDArray[np.float64]
LEVEL = 0.95
MDE_FACTOR = 2.8
"""z(.975) + z(.80): an effect of this many standard errors is found with 80% power at the 5% level."""
FAMILY_ERROR = 0.05


def draw_shares(prompts: int, draws: int, seed: int) -> Array:
    """(B, P) share of each prompt in each bootstrap draw; rows sum to 1."""
    picks = np.random.default_rng(seed).integers(0, prompts, size=(draws, prompts))
    flat = picks + prompts * np.arange(draws)[:, None]
    counts = np.bincount(flat.ravel(), minlength=draws * prompts)
    return np.asarray(counts.reshape(draws, prompts) / prompts)


def shares_of(shares: Array, prompts: npt.NDArray[np.int64]) -> Array:
    """(B, Q) the draws ``shares`` (B, P) restricted to some ``prompts`` (Q,), so that what is built from both stays
    paired. A draw that holds none of them weighs them equally."""
    part = shares[:, prompts]
    total = part.sum(axis=1, keepdims=True)
    return np.where(total > 0.0, part / np.where(total > 0.0, total, 1.0), 1.0 / max(1, prompts.size))


def prompt_means(values: Array) -> Array:
    """(N,) mean over prompts of (P, N), prompts without a value left out; NaN where none has one."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def resampled_means(values: Array, shares: Array) -> Array:
    """(B, N) bootstrap means of (P, N); a draw holding only prompts without a value is NaN."""
    known = np.isfinite(values)
    total = shares @ np.where(known, values, 0.0)
    if known.all():
        return np.asarray(total)
    weight = shares @ known.astype(np.float64)
    return np.where(weight > 0.0, total / np.where(weight > 0.0, weight, 1.0), np.nan)


def alpha_se(replicates: Array, kind: ReplicateKind) -> Array:
    """(N,) standard error of alpha (or of a difference, given differences of replicates) from (N, R)."""
    return influence_se(replicates) if kind == "influence" else grouped_se(replicates)


def alpha_deviations(replicates: Array, kind: ReplicateKind, shares: Array, seed: int) -> Array:
    """(B, N) deviations of alpha from its value, from replicates (N, R).

    ``influence``: the linear term of the bootstrap, on the draws of ``shares``. ``groups``: multivariate t
    with the covariance of the delete-group jackknife and G - 1 degrees of freedom, drawn apart from the
    prompts (groups do not tell which prompt moved what), so its covariance with transport is lost.
    """
    if kind == "influence":
        return np.asarray(shares @ replicates.T)
    groups = replicates.shape[1]
    generator = np.random.default_rng([seed, groups])
    normal = generator.standard_normal((shares.shape[0], groups))
    student = normal / np.sqrt(generator.chisquare(groups - 1, (shares.shape[0], 1)) / (groups - 1))
    spread = replicates - replicates.mean(axis=1, keepdims=True)
    return np.asarray(math.sqrt((groups - 1) / groups) * student @ spread.T)


def student_quantile(degrees: int, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t."""
    # Takes a third of a second to import, and only comparisons need it.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))


def approximate_student_quantile(degrees: int, level: float = LEVEL) -> float:
    """What comparisons of scorer version 2 used: the Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5), within 2e-3
    from three degrees of freedom on."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def percentile_interval(replicates: Array) -> Array:
    """(2, ...) lower and upper percentile over the first axis."""
    tail = 100 * (1 - LEVEL) / 2
    return np.asarray(np.nanpercentile(replicates, [tail, 100 - tail], axis=0))


def corrected_interval(values: Array, replicates: Array, floor: Array | float, ceiling: Array | float) -> Array:
    """(2, ...) interval of statistics that noise moves one way, from (B, ...) replicates, within [floor, ceiling].

    A draw holds the noise once more than the value does, so percentiles lie beside the value; what separates them
    estimates its bias: (value - bias) +- 1.96 sqrt(se^2 + bias^2), which always contains the value.
    """
    bias = np.nanmean(replicates, axis=0) - values
    reach = 1.96 * np.hypot(np.nanstd(replicates, axis=0, ddof=1), bias)
    low = np.minimum(np.maximum(values - bias - reach, floor), values)
    high = np.maximum(np.minimum(values - bias + reach, ceiling), values)
    return np.stack([low, high])


def thresholded_interval(
    values: Array, plain: Array, replicates: Array, floor: Array | float, ceiling: Array | float
) -> Array:
    """(2, ...) interval of statistics of a soft-thresholded profile, within [floor, ceiling]; ``plain`` are those of
    the profile before.

    What the threshold takes off small blocks moves the statistic, and the same in every one of its draws (B, ...), so
    no draw tells by how much: .67-.95 of the intervals of :func:`corrected_interval` cover on real subsamples. Noise
    moves it, too, which the draws do tell: their mean lies as far beyond the value as that beyond the truth. The
    interval reaches from 1.96 standard errors below the lowest of the three (value, without the threshold, less the
    noise) to as many above the highest.
    """
    ends = np.stack([values, plain, 2 * values - np.nanmean(replicates, axis=0)])
    reach = 1.96 * np.nanstd(replicates, axis=0, ddof=1)
    low = np.minimum(np.maximum(ends.min(axis=0) - reach, floor), values)
    return np.stack([low, np.maximum(np.minimum(ends.max(axis=0) + reach, ceiling), values)])


def corrected_flags(values: Array, deviations: Array, se: Array) -> npt.NDArray[np.bool_]:
    """(N,) which values differ from zero after max-T correction over all N.

    A draw's statistic is the largest |deviation| / se over the tested nodes; the critical value is its 95%
    quantile. Nodes without a finite positive standard error are not tested and come back False.
    """
    tested = np.isfinite(values) & np.isfinite(se) & (se > 0.0)
    flags = np.zeros(values.shape, dtype=bool)
    if tested.any():
        largest = np.fmax.reduce(np.abs(deviations[:, tested]) / se[tested], axis=1)
        critical = float(np.quantile(largest[np.isfinite(largest)], 1 - FAMILY_ERROR))
        flags[tested] = np.abs(values[tested]) / se[tested] > critical
    return flags


def mean_estimates(values: Array, shares: Array, *, reasons: list[str], test: bool) -> list[Estimate]:
    """Estimates (N of them) of the prompt means of (P, N), with percentile intervals.

    ``reasons`` name, per node, why a mean may be absent. ``test`` asks for flags corrected over nodes.
    """
    means = prompt_means(values)
    if values.shape[0] < 2:
        return [_bare(value, reason) for value, reason in zip(means, reasons, strict=True)]
    replicates = resampled_means(values, shares)
    present = np.isfinite(means)
    low, high, se = (np.full(means.shape, np.nan) for _ in range(3))
    if present.any():
        low[present], high[present] = percentile_interval(replicates[:, present])
        se[present] = np.nanstd(replicates[:, present], axis=0, ddof=1)
    flags = corrected_flags(means, replicates - means, se) if test else None
    return [
        missing(reasons[n])
        if not present[n]
        else Estimate(
            value=float(means[n]),
            # Rounding of the summation order may leave the mean of a constant column outside by an ulp.
            ci=(min(float(low[n]), float(means[n])), max(float(high[n]), float(means[n])))
            if se[n] <= 1e-12 * abs(means[n])
            else (float(low[n]), float(high[n])),
            se=float(se[n]),
            mde=MDE_FACTOR * float(se[n]),
            significant=None if flags is None else bool(flags[n]),
        )
        for n in range(means.size)
    ]


def alpha_estimates(
    values: Array,
    replicates: Array,
    kind: ReplicateKind,
    shares: Array,
    seed: int,
    *,
    reasons: list[str],
    quantile: Callable[[int], float] = student_quantile,
) -> list[Estimate]:
    """Estimates of N alphas or paired differences of alpha: values (N,), replicates (N, R). Their intervals reach
    ``quantile(R - 1)`` standard errors to both sides."""
    se = alpha_se(replicates, kind)
    flags = corrected_flags(values, alpha_deviations(replicates, kind, shares, seed), se)
    reach = quantile(replicates.shape[1] - 1) if replicates.shape[1] > 2 else math.nan
    found = []
    for n in range(values.size):
        value, error = float(values[n]), float(se[n])
        if not math.isfinite(value):
            found.append(missing(reasons[n]))
        elif not math.isfinite(error * reach):
            found.append(_bare(value, reasons[n]))
        else:
            found.append(
                Estimate(
                    value=value,
                    ci=(value - reach * error, value + reach * error),
                    se=error,
                    mde=MDE_FACTOR * error,
                    significant=bool(flags[n]),
                )
            )
    return found


def _bare(value: float, reason: str) -> Estimate:
    """A value whose interval cannot be had, or the reason of its absence."""
    return Estimate(value=float(value)) if math.isfinite(value) else missing(reason)
