"""The layer-wise half of a comparison: every difference at every node, and the profiles to be localized."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from spinal.analysis.diff import sign_agreement
from spinal.analysis.localization import soft_threshold
from spinal.analysis.uncertainty import (
    bootstrap_means,
    holm,
    linear_draws,
    mean_estimate,
    normal_estimate,
    replicate_se,
    two_sided_p,
)
from spinal.comparison import ByPolicy, ContractionDifference, LayerComparison
from spinal.documents import Estimate, missing
from spinal.trace import POLICIES, WINDOWS

if TYPE_CHECKING:
    from spinal.analysis.compare import Pair

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerTables:
    """Layers 0..D, and profiles over blocks 1..D as (profile (D,), draws (n, D))."""

    layers: tuple[LayerComparison, ...]
    profiles: dict[str, tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class _Contraction:
    """d alpha of all windows at every node under one policy."""

    value: Array
    """(W, N)"""
    replicates: Array
    """(W, N, R) paired differences."""
    se: Array
    """(W, N)"""
    default: int
    significant: npt.NDArray[np.bool_]
    """(N,) in the default window, corrected over layers."""


@dataclass(frozen=True, eq=False)
class _Series:
    """A per-prompt quantity (P, M) with its draws and corrected flags; NaN columns have no value."""

    values: Array
    draws: Array
    significant: npt.NDArray[np.bool_] | None

    def at(self, column: int) -> Estimate:
        flag = None if self.significant is None else bool(self.significant[column])
        return mean_estimate(self.values[:, column], self.draws[:, column], significant=flag)


def compare_layers(pair: "Pair") -> LayerTables:
    """Every difference at every node with its interval, and the non-negative profiles of section 4."""
    contraction = {policy: _contraction(pair, policy) for policy in POLICIES}
    ours, theirs = pair.reference_capture, pair.candidate_capture
    step = {p: _series(theirs.policy(p).transport - ours.policy(p).transport, pair.weights) for p in POLICIES}
    entropy = {p: _series(theirs.policy(p).entropy - ours.policy(p).entropy, pair.weights) for p in POLICIES}
    gap = {p: _series(pair.evidence.function_gap[p], pair.weights, test=False) for p in POLICIES}
    fixed = step
    if pair.evidence.fixed_lens_transport is not None:
        through = pair.evidence.fixed_lens_transport
        fixed = {p: _series(through[p] - ours.policy(p).transport, pair.weights) for p in POLICIES}
    swap = _series(pair.evidence.block_swap, pair.swap_weights, test=False)
    swap_step = _series(pair.evidence.block_swap_transport, pair.swap_weights)
    depth = pair.reference.model.n_layers
    layers = tuple(
        LayerComparison(
            layer=node,
            depth=node / depth,
            d_contraction=_contraction_at(pair, contraction, node),
            d_transport=_by_policy(step, node),
            d_transport_fixed_lens=_by_policy(fixed, node),
            d_entropy=_by_policy(entropy, node),
            function_gap=_by_policy(gap, node),
            block_swap=swap.at(node - 1) if node else missing("no_block_before_node_0"),
            block_swap_transport=swap_step.at(node - 1) if node else missing("no_block_before_node_0"),
            weight_change=_finite_or_none(pair.evidence.weight_change[node - 1]) if node else None,
            sign_disagreement=_disagreements(node, contraction, step, entropy),
        )
        for node in range(depth + 1)
    )
    return LayerTables(layers, _profiles(pair, contraction["all"], step["all"], gap["all"], swap, swap_step))


def _finite_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _series(values: Array, weights: Array, *, test: bool = True) -> _Series:
    draws = bootstrap_means(values, weights)
    if not test:
        return _Series(values, draws, None)
    mean = values.mean(axis=0)
    se = values.std(axis=0, ddof=1) / np.sqrt(values.shape[0]) if values.shape[0] > 1 else np.full(mean.shape, np.nan)
    return _Series(values, draws, holm(two_sided_p(mean, se)))


def _contraction(pair: "Pair", policy: str) -> _Contraction:
    ours, theirs = pair.reference_capture.policy(policy), pair.candidate_capture.policy(policy)
    value = theirs.alpha - ours.alpha
    replicates = theirs.replicates - ours.replicates
    se = replicate_se(replicates, ours.replicate_kind)
    default = WINDOWS.index(pair.profile.window_for(policy))
    return _Contraction(value, replicates, se, default, holm(two_sided_p(value[default], se[default])))


def _contraction_at(pair: "Pair", tables: dict[str, _Contraction], node: int) -> ContractionDifference:
    found: dict[str, Estimate] = {}
    agreement: dict[str, bool | None] = {}
    for policy, table in tables.items():
        value = float(table.value[table.default, node])
        if np.isfinite(value):
            found[policy] = normal_estimate(
                value, float(table.se[table.default, node]), significant=bool(table.significant[node])
            )
        else:
            sides = (pair.reference, pair.candidate)
            reasons = [trace.layers[node].positions[policy].contraction_reason for trace in sides]  # type: ignore[index]  # policy runs over POLICIES
            found[policy] = missing(next((why for why in reasons if why), "contraction_missing_on_one_side"))
        known = table.value[:, node]
        agreement[policy] = sign_agreement([float(v) for v in known[np.isfinite(known)]])
    return ContractionDifference(last=found["last"], all=found["all"], window_agreement=agreement)  # type: ignore[arg-type]  # keys are POLICIES


def _by_policy(series: dict[str, _Series], node: int) -> ByPolicy:
    return ByPolicy(last=series["last"].at(node), all=series["all"].at(node))


def _disagreements(
    node: int, contraction: dict[str, _Contraction], step: dict[str, _Series], entropy: dict[str, _Series]
) -> tuple[str, ...]:
    pairs = {
        "d_contraction": [float(table.value[table.default, node]) for table in contraction.values()],
        "d_transport": [float(series.values[:, node].mean()) for series in step.values()],
        "d_entropy": [float(series.values[:, node].mean()) for series in entropy.values()],
    }
    return tuple(name for name, (last, every) in pairs.items() if last * every < 0)


def _profiles(
    pair: "Pair", contraction: _Contraction, step: _Series, gap: _Series, swap: _Series, swap_step: _Series
) -> dict[str, tuple[Array, Array]]:
    """Profiles over blocks: policy ``all``; the paper's two are soft-thresholded at their standard error."""
    alpha, alpha_se = contraction.value[contraction.default, 1:], contraction.se[contraction.default, 1:]
    kind = pair.reference_capture.all.replicate_kind
    alpha_draws = linear_draws(
        np.nan_to_num(alpha), contraction.replicates[contraction.default, 1:], kind, pair.weights, pair.profile.seed
    )
    steps, step_se = step.values[:, 1:].mean(axis=0), _standard_error(step.values[:, 1:])
    function = gap.values.mean(axis=0)
    return {
        "block_swap": (swap.values.mean(axis=0), swap.draws),
        "block_swap_transport": (np.abs(swap_step.values.mean(axis=0)), np.abs(swap_step.draws)),
        "d_contraction": (soft_threshold(alpha, alpha_se), soft_threshold(alpha_draws, alpha_se)),
        "d_transport": (soft_threshold(steps, step_se), soft_threshold(step.draws[:, 1:], step_se)),
        "function": (np.maximum(np.diff(function), 0.0), np.maximum(np.diff(gap.draws, axis=1), 0.0)),
    }


def _standard_error(values: Array) -> Array:
    if values.shape[0] < 2:
        return np.full(values.shape[1], np.nan)
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(values.shape[0]))
