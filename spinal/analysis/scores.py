"""Strength of the signature over the terminal window T (``docs/method.md`` ("How strong it is"))."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.layers import MAIN_POSITIONS, Pair
from spinal.analysis.localization import terminal_shares
from spinal.analysis.locators.profile import DepthProfile
from spinal.analysis.nulls import split_shares
from spinal.analysis.shape import entropy_roughness, kendall_tau, path_coherence, turning_angle
from spinal.analysis.uncertainty import (
    MDE_FACTOR,
    alpha_deviations,
    corrected_interval,
    percentile_interval,
    prompt_means,
    resampled_means,
)
from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.comparison import Scores
from spinal.documents.editions import FORMER
from spinal.documents.trace import WINDOWS
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]
Nodes = npt.NDArray[np.intp]
FOOTPRINT_PROFILES = ("block_swap", "function")
"""Weight change is none of them: permuted neurons and folded gains move weights and leave the function as it was."""
FORMER_FOOTPRINT_PROFILES = ("weights", *FOOTPRINT_PROFILES)
"""Under the edition of the release before, which shares its documents with it."""
CURVE_SCORES = ("contraction_rise", "transport_fall", "delta_align", "coherence_reference", "coherence")
BIASED = ("coherence", "coherence_reference", "spinal_score")
"""Noise only ever lengthens an arc: see ``corrected_interval``."""


@dataclass(frozen=True, eq=False)
class Curves:
    """One side's alpha and L over nodes 0..D: values (N,) and bootstrap replicates (B, N)."""

    alpha: Array
    alpha_draws: Array
    transport: Array
    transport_draws: Array


def curves(capture: PositionsCapture, window: int, shares: Array, seed: int) -> Curves:
    """Curves of one checkpoint; both sides share the draws, so that differences are paired."""
    deviations = alpha_deviations(capture.replicates[window], capture.replicate_kind, shares, seed)
    return Curves(
        alpha=capture.alpha[window],
        alpha_draws=capture.alpha[window] + deviations,
        transport=prompt_means(capture.transport),
        transport_draws=resampled_means(capture.transport, shares),
    )


def terminal_nodes(terminal: tuple[int, int]) -> Nodes:
    """Nodes of T that enter aggregates: node 1 is left out, its step from the embedding is saturated."""
    return np.arange(max(2, terminal[0]), terminal[1] + 1)


def strength(
    alpha: tuple[Array, Array], transport: tuple[Array, Array], nodes: Nodes, n_layers: int
) -> dict[str, Array]:
    """Score components for (reference, candidate) curves of shape (B, N); each result is (B,), NaN where
    the reference's mean is not positive or a value is missing."""
    scale_alpha = _positive(alpha[0][:, nodes].mean(axis=1))
    scale_transport = _positive(transport[0][:, nodes].mean(axis=1))
    rise = alpha[1][:, nodes].mean(axis=1) / scale_alpha - 1.0
    fall = 1.0 - transport[1][:, nodes].mean(axis=1) / scale_transport
    depth = np.broadcast_to(nodes / n_layers, alpha[0][:, nodes].shape)
    coherence = [
        path_coherence(
            np.stack([depth, a[:, nodes] / scale_alpha[:, None], t[:, nodes] / scale_transport[:, None]], axis=-1)
        )
        for a, t in zip(alpha, transport, strict=True)
    ]
    return {
        "contraction_rise": rise,
        "transport_fall": fall,
        "delta_align": (rise + fall) / 2,
        "coherence_reference": coherence[0],
        "coherence": coherence[1],
    }


def _positive(means: Array) -> Array:
    return np.where(means > 0.0, means, np.nan)


def delta_align_draws(pair: Pair) -> Array:
    """(B,) bootstrap draws of Delta_align; none with a single prompt."""
    if pair.shares.shape[1] < 2:
        return np.empty(0)
    before, after = both_curves(pair)
    return curve_scores(before, after, terminal_nodes(pair.terminal))[1]["delta_align"]


def both_curves(pair: Pair) -> tuple[Curves, Curves]:
    """Curves of reference and candidate."""
    window, seed = pair.window(MAIN_POSITIONS), pair.profile.seed
    mine, theirs = pair.reference_capture.at(MAIN_POSITIONS), pair.candidate_capture.at(MAIN_POSITIONS)
    return curves(mine, window, pair.shares, seed), curves(theirs, window, pair.shares, seed)


def score(pair: Pair, profiles: dict[str, DepthProfile]) -> Scores:
    """All scores of a pair; ``profiles`` are its localization profiles. A score that cannot be had is null
    with an entry in ``reasons``; one without an interval has ``<score>.ci`` there."""
    profile = pair.profile
    before, after = both_curves(pair)
    nodes = terminal_nodes(pair.terminal)
    values, draws = curve_scores(before, after, nodes)
    values["footprint"], draws["footprint"] = _footprint(pair, profiles)
    weights = {
        "delta_align": profile.weight_delta,
        "coherence": profile.weight_coherence,
        "footprint": profile.weight_footprint,
    }
    values["spinal_score"] = sum(weight * values[name] for name, weight in weights.items())
    draws["spinal_score"] = np.sum([weight * draws[name] for name, weight in weights.items()], axis=0)
    ci, mde = _intervals(values, draws) if pair.shares.shape[1] > 1 else ({}, {})
    return Scores(
        **{name: value if np.isfinite(value) else None for name, value in values.items()},
        weights=weights,
        policy="all",
        terminal_window=pair.terminal,
        ci=ci,
        mde=mde,
        companions=_companions(pair, before, after, nodes),
        reasons=_reasons(values, ci, before, after, nodes, pair.evidence.absent),
    )


def curve_scores(before: Curves, after: Curves, nodes: Nodes) -> tuple[dict[str, float], dict[str, Array]]:
    """Scores of the two curves over ``nodes``: values, and draws (B,)."""
    blocks = before.alpha.size - 1
    drawn = ((before.alpha_draws, after.alpha_draws), (before.transport_draws, after.transport_draws))
    if nodes.size == 0:
        nothing = np.full(before.alpha_draws.shape[0], np.nan)
        return dict.fromkeys(CURVE_SCORES, float("nan")), dict.fromkeys(CURVE_SCORES, nothing)
    single = ((before.alpha[None], after.alpha[None]), (before.transport[None], after.transport[None]))
    found = strength(*single, nodes, blocks)
    return {name: float(value[0]) for name, value in found.items()}, strength(*drawn, nodes, blocks)


def _footprint(pair: Pair, profiles: dict[str, DepthProfile]) -> tuple[float, Array]:
    """Mean terminal share of the profiles; a profile without replicates counts as known exactly. NaN where one of them
    has no place: rounding, another basis and what lies outside the blocks leave weights there, too."""
    terminal, draws = pair.terminal, pair.shares.shape[0]
    names = FORMER_FOOTPRINT_PROFILES if pair.edition == FORMER else FOOTPRINT_PROFILES
    if pair.edition != FORMER and any(profiles[name].absent is not None for name in names):
        return float("nan"), np.full(draws, np.nan)
    values = np.array([terminal_shares(profiles[name].weights[None, :], terminal)[0] for name in names])
    replicates = []
    for name, value in zip(names, values, strict=True):
        drawn = profiles[name].replicates
        replicates.append(np.full(draws, value) if drawn is None else terminal_shares(drawn, terminal))
    return float(values.mean()), np.mean(replicates, axis=0)


def _intervals(
    values: dict[str, float], draws: dict[str, Array]
) -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    ci: dict[str, tuple[float, float]] = {}
    mde: dict[str, float] = {}
    for name, value in values.items():
        if not np.isfinite(value) or not np.isfinite(draws[name]).all():
            continue
        se = float(np.std(draws[name], ddof=1))
        low, high = (float(end) for end in percentile_interval(draws[name]))
        if name in BIASED:
            limits = (-np.inf, np.inf) if name == "spinal_score" else (0.0, 1.0)
            low, high = (float(end) for end in corrected_interval(np.asarray(value), draws[name], *limits))
        ci[name], mde[name] = (low, high), MDE_FACTOR * se
    return ci, mde


def _reasons(
    values: dict[str, float],
    ci: dict[str, tuple[float, float]],
    before: Curves,
    after: Curves,
    nodes: Nodes,
    absent: str | None,
) -> dict[str, str]:
    """Why a score, or its interval (key ``<score>.ci``), is absent; ``absent`` is why the evidence is."""
    reasons: dict[str, str] = {}
    for name, value in values.items():
        if np.isfinite(value):
            if name not in ci:
                reasons[f"{name}.ci"] = "too_few_replicates"
        elif name == "footprint":
            reasons[name] = absent or "a_profile_has_no_place"
        elif name == "spinal_score":
            reasons[name] = absent or "a_component_is_missing"
        else:
            reasons[name] = _why_missing(name, before, after, nodes)
    return reasons


def _why_missing(name: str, before: Curves, after: Curves, nodes: Nodes) -> str:
    if nodes.size == 0:
        return "terminal_window_holds_no_aggregated_node"
    if name != "transport_fall":
        if not (np.isfinite(before.alpha[nodes]).all() and np.isfinite(after.alpha[nodes]).all()):
            return "contraction_missing_in_terminal_window"
        if before.alpha[nodes].mean() <= 0.0:
            return "reference_contraction_not_positive"
    if name != "contraction_rise":
        if not (np.isfinite(before.transport[nodes]).all() and np.isfinite(after.transport[nodes]).all()):
            return "transport_missing_in_terminal_window"
        if before.transport[nodes].mean() <= 0.0:
            return "reference_transport_is_zero"
    return "fewer_than_two_nodes_in_terminal_window"


def _companions(pair: Pair, before: Curves, after: Curves, nodes: Nodes) -> dict[str, float | None]:
    scale_alpha = _positive(before.alpha[nodes].mean()) if nodes.size else np.nan
    scale_transport = _positive(before.transport[nodes].mean()) if nodes.size else np.nan
    found: dict[str, float] = {}
    for suffix, side, capture in (
        ("_reference", before, pair.reference_capture),
        ("_candidate", after, pair.candidate_capture),
    ):
        depth = nodes / (side.alpha.size - 1)
        curve = np.stack([depth, side.alpha[nodes] / scale_alpha, side.transport[nodes] / scale_transport], axis=-1)
        found[f"turning_angle{suffix}"] = turning_angle(curve)
        found[f"kendall_contraction{suffix}"] = kendall_tau(depth, side.alpha[nodes])
        found[f"kendall_transport_fall{suffix}"] = kendall_tau(depth, -side.transport[nodes])
        found[f"entropy_roughness{suffix}"] = entropy_roughness(prompt_means(capture.at(MAIN_POSITIONS).entropy)[1:])
        found[f"directness{suffix}"] = float(prompt_means(capture.directness[:, None])[0])
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def floor_values(reference: Capture, profile: MeasurementProfile, terminal: tuple[int, int]) -> Array:
    """Delta_align between two random halves of the reference's own prompts, one value per split."""
    part = reference.at(MAIN_POSITIONS)
    nodes = terminal_nodes(terminal)
    prompts = part.transport.shape[0]
    if nodes.size == 0 or prompts < 4:
        return np.empty(0)
    window = WINDOWS.index(profile.window_for(MAIN_POSITIONS))
    first, second = split_shares(prompts, profile.seed)
    kind, replicates = part.replicate_kind, part.replicates[window]
    deviation = alpha_deviations(replicates, kind, first, profile.seed)
    # Two halves lie opposite each other around the whole: exactly for influences, by symmetry for groups.
    other = alpha_deviations(replicates, kind, second, profile.seed) if kind == "influence" else -deviation
    alpha = part.alpha[window]
    transport = (resampled_means(part.transport, first), resampled_means(part.transport, second))
    found = strength((alpha + deviation, alpha + other), transport, nodes, alpha.size - 1)
    return found["delta_align"]
