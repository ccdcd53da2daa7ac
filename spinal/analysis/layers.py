"""The layer-wise half of a comparison: every difference at every node, with intervals paired over prompts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.diff import opposite, same_sign
from spinal.analysis.uncertainty import (
    alpha_estimates,
    approximate_student_quantile,
    mean_estimates,
    student_quantile,
)
from spinal.documents.base import Estimate, missing
from spinal.documents.capture import Capture, PositionsCapture
from spinal.documents.comparison import ByPolicy, ContractionDifference, LayerComparison
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.documents.evidence import PairEvidence
from spinal.documents.trace import POSITIONS, WINDOWS, LayerTrace, Trace
from spinal.profile import MeasurementProfile

Array = npt.NDArray[np.float64]
NO_STEP = "no_step_into_layer_0"
NO_BLOCK = "no_block_at_layer_0"
UNMEASURED = "not_measured"
SAME_FOR_EVERY_PROMPT = "same_for_every_prompt"
CONSTANT = 2e-6
"""Spread over prompts (radians or nats) that is rounding of one value."""
MAIN_POSITIONS = "all"
"""What scores, places and the damage panel read: every position but the first. There the rows outnumber the
dimensions, so that alpha and its error can be trusted."""
MEMBERS = ("d_transport", "d_transport_fixed_lens", "d_entropy", "function_gap")


@dataclass(frozen=True, eq=False)
class Pair:
    """What the arrays of a comparison come from, already checked to belong together."""

    reference: Trace
    candidate: Trace
    reference_capture: Capture
    candidate_capture: Capture
    evidence: PairEvidence
    profile: MeasurementProfile
    shares: Array
    """(B, P) bootstrap shares of the prompts."""
    swap_shares: Array
    """(B, Q) the same draws over the swap prompts."""
    terminal: tuple[int, int]
    """First and last block of T."""
    edition: Edition = PRESENT

    @property
    def identical(self) -> bool:
        return self.reference.model.weights_digest == self.candidate.model.weights_digest

    @property
    def unmeasured(self) -> str:
        """Reason of a value that the joint pass over the pair should have given and did not."""
        return self.evidence.absent or UNMEASURED

    def window(self, positions: str) -> int:
        """Index in ``WINDOWS`` of the default fit window at those positions."""
        return WINDOWS.index(self.profile.window_for(positions))


def layer_comparisons(pair: Pair) -> tuple[LayerComparison, ...]:
    """One LayerComparison per node 0..D."""
    blocks = pair.reference.model.n_layers
    found = {positions: _differences(pair, positions) for positions in POSITIONS}
    agreement = {p: _window_agreement(pair.reference_capture.at(p), pair.candidate_capture.at(p)) for p in POSITIONS}
    per_block = [pair.unmeasured] * blocks
    swap = mean_estimates(pair.evidence.block_swap, pair.swap_shares, reasons=per_block, test=False)
    step = mean_estimates(pair.evidence.block_swap_transport, pair.swap_shares, reasons=per_block, test=True)
    layers = []
    for node in range(blocks + 1):
        last = {member: values[node] for member, values in found["last"].items()}
        every = {member: values[node] for member, values in found["all"].items()}
        layers.append(
            LayerComparison(
                layer=node,
                depth=node / blocks,
                d_contraction=ContractionDifference(
                    last=last["d_contraction"],
                    all=every["d_contraction"],
                    window_agreement={"last": agreement["last"][node], "all": agreement["all"][node]},
                ),
                **{member: ByPolicy(last=last[member], all=every[member]) for member in MEMBERS},
                block_swap=swap[node - 1] if node else missing(NO_BLOCK),
                block_swap_transport=step[node - 1] if node else missing(NO_BLOCK),
                weight_change=_finite(pair.evidence.weight_change[node - 1]) if node else None,
                sign_disagreement=tuple(m for m in last if opposite(last[m].value, every[m].value)),
            )
        )
    return tuple(layers)


def _differences(pair: Pair, positions: str) -> dict[str, list[Estimate]]:
    mine, theirs = pair.reference_capture.at(positions), pair.candidate_capture.at(positions)
    nodes = pair.reference.model.n_layers + 1
    steps = [NO_STEP] + [UNMEASURED] * (nodes - 1)
    anywhere = [UNMEASURED] * nodes
    jointly = [pair.unmeasured] * nodes
    through = pair.evidence.fixed_lens_transport
    fixed = theirs.transport if through is None else through[positions]
    window = pair.window(positions)
    return {
        "d_contraction": alpha_estimates(
            theirs.alpha[window] - mine.alpha[window],
            replicate_differences(mine, theirs, window),
            mine.replicate_kind,
            pair.shares,
            pair.profile.seed,
            quantile=approximate_student_quantile if pair.edition == FORMER else student_quantile,
            reasons=[
                _contraction_reason(b, a, positions)
                for b, a in zip(pair.reference.layers, pair.candidate.layers, strict=True)
            ],
        ),
        "d_transport": mean_estimates(theirs.transport - mine.transport, pair.shares, reasons=steps, test=True),
        "d_transport_fixed_lens": mean_estimates(
            fixed - mine.transport, pair.shares, reasons=[NO_STEP, *jointly[1:]], test=True
        ),
        "d_entropy": _embedded_alike(theirs.entropy - mine.entropy, pair.shares, reasons=anywhere, test=True),
        "function_gap": _embedded_alike(
            pair.evidence.function_gap[positions], pair.shares, reasons=jointly, test=False
        ),
    }


def _embedded_alike(values: Array, shares: Array, *, reasons: list[str], test: bool) -> list[Estimate]:
    """:func:`mean_estimates` of values (P, N) at nodes. Where every prompt ends with the same token, node 0 under
    ``last`` is the embedding of that token: one value, which another draw of prompts does not move, so that an interval
    over prompts says nothing of it."""
    found = mean_estimates(values, shares, reasons=reasons, test=test)
    first, alone = found[0], values[:, 0]
    if first.value and first.ci is not None and float(np.ptp(alone[np.isfinite(alone)])) <= CONSTANT:
        found[0] = Estimate(value=first.value, reason=SAME_FOR_EVERY_PROMPT)
    return found


def _contraction_reason(reference: LayerTrace, candidate: LayerTrace, positions: str) -> str:
    sides = [{str(name): position for name, position in layer.positions.items()} for layer in (reference, candidate)]
    return next((why for side in sides if (why := side[positions].contraction_reason)), UNMEASURED)


def replicate_differences(reference: PositionsCapture, candidate: PositionsCapture, window: int) -> Array:
    """(N, R) paired differences of the replicates of alpha; NaN where the two sides do not pair."""
    mine, theirs = reference.replicates[window], candidate.replicates[window]
    if reference.replicate_kind != candidate.replicate_kind or mine.shape != theirs.shape:
        return np.full(mine.shape, np.nan)
    return np.asarray(theirs - mine)


def _window_agreement(reference: PositionsCapture, candidate: PositionsCapture) -> list[bool | None]:
    differences = (candidate.alpha - reference.alpha).T
    return [same_sign([float(d) for d in node if np.isfinite(d)]) for node in differences]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
