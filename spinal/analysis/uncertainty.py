"""Intervals and tests (``docs/method.md`` section 7). The prompt is the sampling unit everywhere."""

import math

import numpy as np
import numpy.typing as npt

from spinal.analysis.spectrum import grouped_se, influence_se
from spinal.capture import ReplicateKind
from spinal.documents import Estimate, missing

Array = npt.NDArray[np.float64]
Z95 = 1.959963984540054
MDE_FACTOR = 2.8
"""Standard errors that a two-sided 5% test finds with 80% power."""
FAMILY_LEVEL = 0.05


def resampling_weights(prompts: int, draws: int, seed: int) -> Array:
    """(draws, P) bootstrap weights over prompts, each row summing to 1."""
    counts = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1.0 / prompts), size=draws)
    return np.asarray(counts / prompts)


def bootstrap_means(values: Array, weights: Array) -> Array:
    """(draws, M) resampled means of per-prompt values (P, M)."""
    return np.asarray(weights @ values)


def percentile_interval(draws: Array) -> tuple[float, float]:
    """95% percentile interval of finite draws (n,)."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def mean_estimate(values: Array, draws: Array, *, significant: bool | None = None) -> Estimate:
    """Mean over prompts of ``values`` (P,) with the interval of its bootstrap ``draws``; NaN gives a null."""
    if values.size == 0 or not np.isfinite(values).all():
        return missing("no_value_at_this_node")
    se = float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else None
    return Estimate(
        value=float(values.mean()),
        ci=percentile_interval(draws),
        se=se,
        mde=None if se is None else MDE_FACTOR * se,
        significant=significant,
    )


def replicate_se(replicates: Array, kind: ReplicateKind) -> Array:
    """Standard errors from replicates on the last axis; NaN where a replicate is missing."""
    return influence_se(replicates) if kind == "influence" else grouped_se(replicates)


def normal_estimate(value: float, se: float, *, significant: bool | None = None) -> Estimate:
    """A value with a normal 95% interval; a null where it is not finite."""
    if not math.isfinite(value):
        return missing("contraction_missing_on_one_side")
    if not math.isfinite(se):
        return Estimate(value=value, reason="no_standard_error")
    return Estimate(
        value=value, ci=(value - Z95 * se, value + Z95 * se), se=se, mde=MDE_FACTOR * se, significant=significant
    )


def two_sided_p(value: Array, se: Array) -> Array:
    """Normal p-values; 1 where the value is 0 or the standard error unknown."""
    out = np.ones_like(value)
    for index in np.ndindex(value.shape):
        if value[index] != 0.0 and math.isfinite(value[index]) and math.isfinite(se[index]):
            ratio = abs(value[index]) / se[index] if se[index] > 0.0 else math.inf
            out[index] = math.erfc(ratio / math.sqrt(2.0))
    return out


def holm(p_values: Array, level: float = FAMILY_LEVEL) -> npt.NDArray[np.bool_]:
    """Which of a family of p-values (M,) stand under Holm's step-down correction."""
    order = np.argsort(p_values, kind="stable")
    rejected = np.zeros(p_values.shape, dtype=bool)
    for rank, index in enumerate(order):
        if p_values[index] > level / (p_values.size - rank):
            break
        rejected[index] = True
    return rejected


def linear_draws(value: Array, replicates: Array, kind: ReplicateKind, weights: Array, seed: int) -> Array:
    """(draws, M) draws of estimates (M,) whose replicates are (M, R).

    With influences the draws use the same prompt weights as the bootstrap of everything else, so that ratios
    and sums with bootstrapped quantities stay paired; with groups they are normal draws of the right width.
    """
    if kind == "influence":
        return np.asarray(value + (weights - 1.0 / weights.shape[1]) @ np.nan_to_num(replicates).T)
    se = np.nan_to_num(grouped_se(replicates))
    noise = np.random.default_rng(seed + 1).standard_normal((weights.shape[0], value.size))
    return np.asarray(value + noise * se)
