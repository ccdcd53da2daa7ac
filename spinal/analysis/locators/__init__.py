"""The six localization profiles of a comparison, each with replicates where it is a mean over prompts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.layers import UNMEASURED, Pair, replicate_differences
from spinal.analysis.localization import NO_CHANGE, localize, soft_threshold
from spinal.analysis.uncertainty import alpha_deviations, alpha_se, corrected_flags, prompt_means, resampled_means
from spinal.documents.comparison import LOCALIZATION_PROFILES, Localization

Array = npt.NDArray[np.float64]
POLICY = "all"


@dataclass(frozen=True, eq=False)
class DepthProfile:
    """Nonnegative weights over blocks 1..D (D,) and bootstrap replicates (B, D) or None; ``absent`` names
    why there is nothing to place."""

    weights: Array
    replicates: Array | None
    absent: str | None = None
    clipped: bool = False
    """Whether signed values were clipped or thresholded to make the weights."""


def depth_profiles(pair: Pair) -> dict[str, DepthProfile]:
    """Profiles by name (``LOCALIZATION_PROFILES``); signed ones are soft-thresholded at their SE."""
    mine, theirs = pair.reference_capture.policy(POLICY), pair.candidate_capture.policy(POLICY)
    evidence, shares = pair.evidence, pair.shares
    transport = theirs.transport - mine.transport
    # The step 0 -> 1 is saturated whatever was trained, so node 1 takes no part in the transport profile.
    transport = np.where(np.arange(transport.shape[1]) == 1, 0.0, transport)[:, 1:]
    window = pair.window(POLICY)
    replicates = replicate_differences(mine, theirs, window)[1:]
    deviations = alpha_deviations(replicates, mine.replicate_kind, shares, pair.profile.seed)
    d_alpha = (theirs.alpha[window] - mine.alpha[window])[1:]
    found = {
        "block_swap": _nonnegative(evidence.block_swap, pair.swap_shares),
        "weights": _known(evidence.weight_change),
        "block_swap_transport": _signed_means(evidence.block_swap_transport, pair.swap_shares),
        "d_contraction": _signed(d_alpha, deviations, alpha_se(replicates, mine.replicate_kind)),
        "d_transport": _signed_means(transport, shares),
        "function": _increments(evidence.function_gap[POLICY], shares),
    }
    return {name: found[name] for name in LOCALIZATION_PROFILES}


def place(profiles: dict[str, DepthProfile], terminal: tuple[int, int]) -> dict[str, Localization]:
    """Localization of every profile."""
    return {
        name: localize(p.weights, p.replicates, terminal, absent=p.absent, clipped=p.clipped)
        for name, p in profiles.items()
    }


def _known(values: Array) -> DepthProfile:
    finite = np.isfinite(values)
    return DepthProfile(np.where(finite, values, 0.0), None, None if finite.any() else UNMEASURED)


def _nonnegative(values: Array, shares: Array) -> DepthProfile:
    means = prompt_means(values)
    absent = None if np.isfinite(means).any() else UNMEASURED
    return DepthProfile(np.nan_to_num(means), _replicates(values, shares), absent)


def _increments(gap: Array, shares: Array) -> DepthProfile:
    rises = np.maximum(np.diff(prompt_means(gap)), 0.0)
    absent = None if np.isfinite(rises).any() else UNMEASURED
    drawn = _replicates(gap, shares)
    return DepthProfile(
        np.nan_to_num(rises), None if drawn is None else np.maximum(np.diff(drawn, axis=1), 0.0), absent, clipped=True
    )


def _signed_means(values: Array, shares: Array) -> DepthProfile:
    drawn = _replicates(values, shares)
    means = prompt_means(values)
    if drawn is None:
        return DepthProfile(np.nan_to_num(np.abs(means)), None)
    return _signed(means, drawn - np.nan_to_num(means), drawn.std(axis=0, ddof=1))


def _signed(values: Array, deviations: Array, se: Array) -> DepthProfile:
    """Soft-thresholded size of signed differences (D,). Where none survives the correction over blocks the
    profile is noise, and noise has no place."""
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
    )


def _replicates(values: Array, shares: Array) -> Array | None:
    return np.nan_to_num(resampled_means(values, shares)) if values.shape[0] > 1 else None
