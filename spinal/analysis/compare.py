"""Two traces, their captures and the evidence of the pair -> one Comparison. Pure: numpy and documents."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis import damage as damage_panel
from spinal.analysis import verdict
from spinal.analysis.diff import check_comparable
from spinal.analysis.layers import LayerTables, compare_layers
from spinal.analysis.localization import localize, terminal_window
from spinal.analysis.nulls import depth_null, split_half_null
from spinal.analysis.scores import Curve, score
from spinal.analysis.uncertainty import bootstrap_means, linear_draws, resampling_weights
from spinal.analysis.warnings import collect_warnings
from spinal.canonical import digest_of
from spinal.capture import Capture, PolicyCapture
from spinal.comparison import SCORER_VERSION, Comparison, Damage, Localization, Null, Scores, Side
from spinal.documents import Provenance
from spinal.errors import TracesNotComparable
from spinal.evidence import PairEvidence
from spinal.profile import MeasurementProfile
from spinal.trace import WINDOWS, Trace, stamp_profile

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Pair:
    """Everything a comparison reads, checked to belong together."""

    reference: Trace
    reference_capture: Capture
    candidate: Trace
    candidate_capture: Capture
    evidence: PairEvidence
    profile: MeasurementProfile
    weights: Array
    """(draws, P) bootstrap weights over all prompts."""
    swap_weights: Array
    """(draws, Q) bootstrap weights over the swap prompts."""
    terminal: tuple[int, int]

    @property
    def identical(self) -> bool:
        return self.reference.model.weights_digest == self.candidate.model.weights_digest


def comparison_digest(reference: str, candidate: str, profile: MeasurementProfile) -> str:
    """Identity of a comparison: both traces, every knob, scorer version."""
    return digest_of(
        {
            "schema": "spinal.comparison/1",
            "reference": reference,
            "candidate": candidate,
            "fingerprint": profile.comparison_fingerprint,
            "scorer": SCORER_VERSION,
        }
    )


def compare(
    reference: Trace,
    reference_capture: Capture,
    candidate: Trace,
    candidate_capture: Capture,
    evidence: PairEvidence,
    profile: MeasurementProfile,
    provenance: Provenance,
) -> Comparison:
    """Compare a candidate with its reference; differences are candidate minus reference.

    Raises FingerprintMismatch or TracesNotComparable when the parts do not belong together.
    """
    pair = _assemble(reference, reference_capture, candidate, candidate_capture, evidence, profile)
    tables = compare_layers(pair)
    places = _localize(pair, tables)
    scores = _score(pair, tables, places)
    damage = _damage(pair)
    nulls = _nulls(pair, tables)
    return Comparison(
        digest=comparison_digest(reference.digest, candidate.digest, profile),
        reference=_side(reference),
        candidate=_side(candidate),
        fingerprint=reference.fingerprint,
        profile={**stamp_profile(profile), "comparison_fingerprint": profile.comparison_fingerprint},
        scorer_version=SCORER_VERSION,
        identical=pair.identical,
        readout_moved=evidence.readout_moved,
        layers=tables.layers,
        weight_change_other={
            name: value for name, value in evidence.weight_change_other.items() if math.isfinite(value)
        },
        localization=places,  # type: ignore[arg-type]  # keys are LOCALIZATION_PROFILES, checked by pydantic
        scores=scores,
        damage=damage,
        nulls=nulls,
        verdict=verdict.decide(damage, places["block_swap"], identical=pair.identical),
        warnings=collect_warnings(pair, tables.layers, places, nulls),
        provenance=provenance,
    )


def _assemble(
    reference: Trace,
    reference_capture: Capture,
    candidate: Trace,
    candidate_capture: Capture,
    evidence: PairEvidence,
    profile: MeasurementProfile,
) -> Pair:
    check_comparable(reference, candidate)
    for trace, capture in ((reference, reference_capture), (candidate, candidate_capture)):
        if capture.trace_digest != trace.digest:
            raise TracesNotComparable(
                f"a capture belongs to trace {capture.trace_digest[:12]}, not {trace.digest[:12]}"
            )
    if profile.fingerprint != reference.fingerprint:
        raise TracesNotComparable("the profile given is not the one the traces were measured under")
    prompts, swapped = reference.prompt_set.count, evidence.block_swap.shape[0]
    weights = resampling_weights(prompts, profile.bootstrap_draws, profile.seed)
    swap_weights = weights if swapped == prompts else resampling_weights(swapped, profile.bootstrap_draws, profile.seed)
    terminal = terminal_window(reference.model.n_layers, profile.terminal_fraction)
    return Pair(
        reference, reference_capture, candidate, candidate_capture, evidence, profile, weights, swap_weights, terminal
    )


def _side(trace: Trace) -> Side:
    return Side(digest=trace.digest, source=trace.model.source, weights_digest=trace.model.weights_digest)


def _localize(pair: Pair, tables: LayerTables) -> dict[str, Localization]:
    places = {name: localize(profile, pair.terminal, draws) for name, (profile, draws) in tables.profiles.items()}
    finite = np.where(np.isfinite(pair.evidence.weight_change), pair.evidence.weight_change, 0.0)
    places["weights"] = localize(finite, pair.terminal)
    return places


def _score(pair: Pair, tables: LayerTables, places: dict[str, Localization]) -> Scores:
    low, high = pair.terminal
    depth = np.arange(low, high + 1) / pair.reference.model.n_layers
    return score(
        _curve(pair, pair.reference_capture),
        _curve(pair, pair.candidate_capture),
        _footprint(pair, tables, places),
        depth,
        pair.profile,
        pair.terminal,
    )


def _curve(pair: Pair, capture: Capture) -> Curve:
    part: PolicyCapture = capture.all
    low, high = pair.terminal
    over_t = slice(low, high + 1)
    window = WINDOWS.index(pair.profile.window_for("all"))
    alpha = part.alpha[window, over_t]
    directness = capture.directness[np.isfinite(capture.directness)]
    return Curve(
        alpha=alpha,
        transport=part.transport[:, over_t].mean(axis=0),
        entropy=part.entropy[:, over_t].mean(axis=0),
        alpha_draws=linear_draws(
            alpha, part.replicates[window, over_t], part.replicate_kind, pair.weights, pair.profile.seed
        ),
        transport_draws=bootstrap_means(part.transport[:, over_t], pair.weights),
        directness=float(directness.mean()) if directness.size else None,
    )


def _footprint(pair: Pair, tables: LayerTables, places: dict[str, Localization]) -> tuple[float | None, Array | None]:
    """G: mean terminal share of weights, block swap and function, and its draws."""
    names = ("weights", "block_swap", "function")
    shares = [places[name].terminal_share for name in names]
    if any(share is None for share in shares):
        return None, None
    low, high = pair.terminal
    drawn = np.full(pair.profile.bootstrap_draws, float(shares[0] or 0.0))
    for name in names[1:]:
        draws = tables.profiles[name][1]
        total = draws.sum(axis=1)
        drawn = drawn + np.where(total > 0, draws[:, low - 1 : high].sum(axis=1) / np.where(total > 0, total, 1.0), 0.0)
    return float(np.mean([share for share in shares if share is not None])), drawn / len(names)


def _damage(pair: Pair) -> Damage:
    low, high = pair.terminal
    ranks = (
        pair.candidate_capture.all.effective_rank[low : high + 1]
        / pair.reference_capture.all.effective_rank[low : high + 1]
    )
    entropy = pair.candidate_capture.all.entropy[:, -1].mean() - pair.reference_capture.all.entropy[:, -1].mean()
    same_texts = np.array_equal(pair.reference_capture.nll_prompts, pair.candidate_capture.nll_prompts)
    measured = same_texts and pair.reference_capture.nll.size > 0
    return damage_panel.assess(
        hidden_change=_finite(pair.evidence.hidden_change["all"][:, -1].mean()),
        block_swap_mean=_finite(pair.evidence.block_swap.mean()),
        nll_change=_finite((pair.candidate_capture.nll - pair.reference_capture.nll).mean()) if measured else None,
        entropy_change=_finite(entropy),
        effective_rank_ratio=_finite(ranks.mean()),
        non_finite=pair.candidate.non_finite,
    )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _nulls(pair: Pair, tables: LayerTables) -> dict[str, Null]:
    low, high = pair.terminal
    ours = pair.reference_capture.all.transport[:, low : high + 1].mean(axis=1)
    theirs = pair.candidate_capture.all.transport[:, low : high + 1].mean(axis=1)
    found = {
        "self": split_half_null(ours, float((theirs - ours).mean())),
        "depth": depth_null(tables.profiles["block_swap"][0], pair.terminal),
    }
    return {name: null for name, null in found.items() if null is not None}
