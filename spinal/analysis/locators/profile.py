"""A profile of weights over the blocks, and the ways in which locators make one.

B bootstrap draws, P prompts, D blocks, N = D + 1 nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.layers import UNMEASURED, Pair
from spinal.analysis.localization import soft_threshold
from spinal.analysis.uncertainty import corrected_flags, prompt_means, resampled_means
from spinal.documents.localization import NO_CHANGE

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class DepthProfile:
    """Nonnegative weights over blocks 1..D (D,) and bootstrap replicates (B, D) or None; ``absent`` names
    why there is nothing to place."""

    weights: Array
    replicates: Array | None
    absent: str | None = None
    clipped: bool = False
    """Whether signed values were clipped or thresholded to make the weights."""
    plain: Array | None = None
    """(D,) the weights before a threshold, where there was one."""


@dataclass(frozen=True)
class Locator:
    """One way to say where along the depth a change sits."""

    name: str
    """Key in ``Comparison.localization``."""
    label: str
    """As a report calls it."""
    weigh: Callable[[Pair], DepthProfile]
    rests_on_evidence: bool
    """Whether it reads the joint pass over the pair, so that it knows nothing where that was not made."""
    compares_coordinates: bool = False
    """Whether it means nothing where the two sides write their residuals in different bases."""


def known(values: Array) -> DepthProfile:
    """Weights (D,) without sampling error; an unknown one counts as 0."""
    finite = np.isfinite(values)
    return DepthProfile(np.where(finite, values, 0.0), None, None if finite.any() else UNMEASURED)


def nonnegative(values: Array, shares: Array) -> DepthProfile:
    """Prompt means of nonnegative values (P, D); ``shares`` (B, P)."""
    means = prompt_means(values)
    absent = None if np.isfinite(means).any() else UNMEASURED
    return DepthProfile(np.nan_to_num(means), _replicates(values, shares), absent)


def increments(values: Array, shares: Array) -> DepthProfile:
    """Rises of the prompt means of values (P, N) from node to node; falls count as 0."""
    rises = np.maximum(np.diff(prompt_means(values)), 0.0)
    absent = None if np.isfinite(rises).any() else UNMEASURED
    drawn = _replicates(values, shares)
    return DepthProfile(
        np.nan_to_num(rises), None if drawn is None else np.maximum(np.diff(drawn, axis=1), 0.0), absent, clipped=True
    )


def signed_means(values: Array, shares: Array) -> DepthProfile:
    """Size of the prompt means of signed values (P, D), thresholded as in :func:`signed`."""
    drawn = _replicates(values, shares)
    means = prompt_means(values)
    if drawn is None:
        return DepthProfile(np.nan_to_num(np.abs(means)), None)
    return signed(means, drawn - np.nan_to_num(means), drawn.std(axis=0, ddof=1))


def signed(values: Array, deviations: Array, se: Array) -> DepthProfile:
    """Size of signed values (D,), soft-thresholded at their error; ``deviations`` (B, D), ``se`` (D,). Where none
    survives the correction over blocks the profile is noise, and noise has no place."""
    if not np.isfinite(values).any():
        return DepthProfile(np.zeros(values.size), None, UNMEASURED)
    if not np.isfinite(se).any():
        return DepthProfile(np.nan_to_num(np.abs(values)), None)
    detectable = corrected_flags(values, deviations, se).any()
    return DepthProfile(
        soft_threshold(values, se),
        soft_threshold(values + deviations, se),
        None if detectable else NO_CHANGE,
        clipped=True,
        plain=np.nan_to_num(np.abs(values)),
    )


def _replicates(values: Array, shares: Array) -> Array | None:
    return np.nan_to_num(resampled_means(values, shares)) if values.shape[0] > 1 else None
