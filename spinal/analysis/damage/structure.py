"""How far the candidate moved, whatever that does to its text: signals that warn, and agree with NLL or do not."""

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.signals import mean_or_nan, mean_signal, shown, unmeasured, without_vote
from spinal.analysis.layers import MAIN_POSITIONS, UNMEASURED
from spinal.analysis.uncertainty import prompt_means
from spinal.documents.account import FRAME_CHANGED
from spinal.documents.capture import Capture
from spinal.documents.comparison import DamageSignal, Frame
from spinal.documents.evidence import PairEvidence

Array = npt.NDArray[np.float64]


def structural_signals(evidence: PairEvidence, frame: Frame | None) -> dict[str, DamageSignal]:
    """Distance of the outputs, of the last residuals and of what blocks compute. The last two compare coordinates: they
    have no vote where the two sides write in other bases."""
    found = {
        "gap": _over_prompts("gap", evidence.function_gap[MAIN_POSITIONS][:, -1], evidence),
        "hidden_change": _over_prompts("hidden_change", evidence.hidden_change[MAIN_POSITIONS][:, -1], evidence),
        "block_swap_mean": _over_prompts(
            "block_swap_mean",
            per_prompt(evidence.block_swap),
            evidence,
            value=mean_or_nan(prompt_means(evidence.block_swap)),
        ),
    }
    if frame is not None and frame.changed:
        for name in ("hidden_change", "block_swap_mean"):
            found[name] = without_vote(found[name], FRAME_CHANGED)
    return found


def shown_signals(
    reference: Capture, candidate: Capture, evidence: PairEvidence, terminal: tuple[int, int]
) -> dict[str, DamageSignal]:
    """What stands beside the panel and has no vote. ``terminal`` is the first and last block of T."""
    mine, theirs = reference.at(MAIN_POSITIONS), candidate.at(MAIN_POSITIONS)
    entropy = float(prompt_means(theirs.entropy[:, -1:])[0] - prompt_means(mine.entropy[:, -1:])[0])
    ratio = rank_ratio(mine.effective_rank, theirs.effective_rank, terminal)
    top = np.empty(0) if evidence.top_changed is None else evidence.top_changed
    return {
        "entropy_change": shown(entropy, "nats", UNMEASURED, over=theirs.entropy[:, -1] - mine.entropy[:, -1]),
        "effective_rank_ratio": shown(ratio, "ratio in T", UNMEASURED),
        "top_token_changes": shown(mean_or_nan(top), "of read positions", evidence.absent or UNMEASURED, over=top),
    }


def per_prompt(block_swap: Array) -> Array:
    """(Q,) mean over blocks of (Q, D), blocks without a value left out; NaN where none has one."""
    return prompt_means(block_swap.T)


def rank_ratio(reference: Array, candidate: Array, terminal: tuple[int, int]) -> float:
    """Mean effective rank over the nodes of T, candidate over reference; NaN where there is none."""
    inside = slice(terminal[0], terminal[1] + 1)
    below = mean_or_nan(reference[inside])
    return mean_or_nan(candidate[inside]) / below if below > 0.0 else float("nan")


def _over_prompts(name: str, values: Array, evidence: PairEvidence, value: float | None = None) -> DamageSignal:
    known = values[np.isfinite(values)]
    if not known.size:
        return unmeasured(name, evidence.absent or UNMEASURED)
    return mean_signal(name, known, value=value)
