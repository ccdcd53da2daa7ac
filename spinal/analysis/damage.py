"""Is the candidate still a working model? (``docs/method.md`` ("Damage panel")). Shown next to every score."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from spinal.analysis.layers import MAIN_POSITIONS, UNMEASURED
from spinal.analysis.uncertainty import prompt_means
from spinal.documents.capture import Capture
from spinal.documents.comparison import Damage, DamageSignal
from spinal.documents.evidence import PairEvidence

Array = npt.NDArray[np.float64]
Level = Literal["none", "watch", "damaged"]
THRESHOLDS: dict[str, tuple[float, float]] = {
    "hidden_change": (0.4, 0.8),
    "block_swap_mean": (0.25, 0.4),
    "nll_change": (0.3, 1.0),
}
"""(watch, damaged) of the signals that vote."""
STRUCTURAL = ("hidden_change", "block_swap_mean")
CALIBRATION = (
    "Thresholds lie between the largest value seen on five working fine-tunes and the smallest seen on two wrecked "
    "ones (`python -m benchmarks.damage` prints them): one architecture of two million parameters with one "
    "ancestor. They say nothing certain about larger models, longer training or base-to-instruct pairs: read the "
    "values there, and name a control. 'damaged' needs two signals to agree: the change of NLL and at least one "
    "structural signal (hidden change, mean block swap), or both structural signals where no NLL was measured; "
    "non-finite activations are enough alone. 'watch' needs one signal at its lower threshold. Entropy change and "
    "effective-rank ratio have no vote."
)


def assess(
    reference: Capture, candidate: Capture, evidence: PairEvidence, non_finite: int, terminal: tuple[int, int]
) -> Damage:
    """The panel: candidate against reference; ``non_finite`` counts non-finite activations of the candidate."""
    mine, theirs = reference.at(MAIN_POSITIONS), candidate.at(MAIN_POSITIONS)
    jointly = evidence.absent or UNMEASURED
    signals = {
        "hidden_change": _voting(
            "hidden_change",
            float(prompt_means(evidence.hidden_change[MAIN_POSITIONS][:, -1:])[0]),
            "of ||r_D||",
            jointly,
        ),
        "block_swap_mean": _voting(
            "block_swap_mean", mean_or_nan(prompt_means(evidence.block_swap)), "of a block's own update", jointly
        ),
        "nll_change": _voting("nll_change", nll_change(reference, candidate), "nats/token"),
        "entropy_change": _shown(
            float(prompt_means(theirs.entropy[:, -1:])[0] - prompt_means(mine.entropy[:, -1:])[0]), "nats"
        ),
        "effective_rank_ratio": _shown(_rank_ratio(mine.effective_rank, theirs.effective_rank, terminal), "ratio in T"),
        "non_finite": DamageSignal(
            value=float(non_finite),
            watch=1.0,
            damaged=1.0,
            level="damaged" if non_finite else "none",
            unit="activations",
        ),
    }
    return Damage(level=_agree(signals), signals=signals, calibration=CALIBRATION)


def _agree(signals: dict[str, DamageSignal]) -> Level:
    levels = {name: signal.level for name, signal in signals.items()}
    structural = [levels[name] == "damaged" for name in STRUCTURAL]
    behaviour = signals["nll_change"]
    agreed = all(structural) if behaviour.value is None else levels["nll_change"] == "damaged" and any(structural)
    if agreed or levels["non_finite"] == "damaged":
        return "damaged"
    return "watch" if any(level in ("watch", "damaged") for level in levels.values()) else "none"


def _voting(name: str, value: float, unit: str, reason: str = UNMEASURED) -> DamageSignal:
    watch, damaged = THRESHOLDS[name]
    if not np.isfinite(value):
        return DamageSignal(value=None, watch=watch, damaged=damaged, level=None, unit=unit, reason=reason)
    level: Level = "damaged" if value >= damaged else "watch" if value >= watch else "none"
    return DamageSignal(value=value, watch=watch, damaged=damaged, level=level, unit=unit)


def _shown(value: float, unit: str) -> DamageSignal:
    known = np.isfinite(value)
    return DamageSignal(
        value=value if known else None,
        watch=None,
        damaged=None,
        level=None,
        unit=unit,
        reason=None if known else UNMEASURED,
    )


def mean_or_nan(values: Array) -> float:
    """Mean of the finite values, NaN without any."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def nll_change(reference: Capture, candidate: Capture) -> float:
    """Mean paired change of NLL (nats/token) over the prompts scored on both sides; NaN without any."""
    mine = dict(zip(reference.nll_prompts.tolist(), reference.nll.tolist(), strict=True))
    theirs = dict(zip(candidate.nll_prompts.tolist(), candidate.nll.tolist(), strict=True))
    return mean_or_nan(np.array([theirs[prompt] - mine[prompt] for prompt in sorted(mine.keys() & theirs.keys())]))


def _rank_ratio(reference: Array, candidate: Array, terminal: tuple[int, int]) -> float:
    inside = slice(terminal[0], terminal[1] + 1)
    below = mean_or_nan(reference[inside])
    return mean_or_nan(candidate[inside]) / below if below > 0.0 else float("nan")
