"""Is the candidate wrecked? Always shown beside the scores, because a wrecked model can have a perfect
signature (``docs/method.md`` section 6)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from spinal.comparison import Damage, DamageSignal

Array = npt.NDArray[np.float64]
Level = Literal["none", "watch", "damaged"]
ORDER: tuple[Level, ...] = ("none", "watch", "damaged")
CALIBRATION = (
    "thresholds stand between the healthy and the wrecked checkpoints of examples/history (one architecture of "
    "2 M parameters, one ancestor; `python -m benchmarks.damage` prints the values); nothing is known about larger "
    "models. NLL alone may say damaged; hidden change and block swap say it only together."
)


@dataclass(frozen=True)
class Threshold:
    watch: float
    damaged: float
    unit: str


THRESHOLDS = {
    "nll_change": Threshold(0.30, 1.00, "nats/token"),
    "hidden_change": Threshold(0.40, 0.80, "relative"),
    "block_swap_mean": Threshold(0.25, 0.40, "relative"),
}


def assess(
    *,
    hidden_change: float | None,
    block_swap_mean: float | None,
    nll_change: float | None,
    entropy_change: float | None,
    effective_rank_ratio: float | None,
    non_finite: int,
) -> Damage:
    """The damage panel of a pair; signals without thresholds are shown and do not vote."""
    signals = {
        "nll_change": _voting("nll_change", nll_change),
        "hidden_change": _voting("hidden_change", hidden_change),
        "block_swap_mean": _voting("block_swap_mean", block_swap_mean),
        "entropy_change": _shown(entropy_change, "nats"),
        "effective_rank_ratio": _shown(effective_rank_ratio, "ratio"),
        "non_finite": DamageSignal(
            value=float(non_finite), watch=None, damaged=1.0, level="damaged" if non_finite else "none", unit="count"
        ),
    }
    return Damage(level=_combine(signals), signals=signals, calibration=CALIBRATION)


def _voting(name: str, value: float | None) -> DamageSignal:
    limits = THRESHOLDS[name]
    level: Level | None = None
    if value is not None:
        level = "damaged" if value >= limits.damaged else "watch" if value >= limits.watch else "none"
    return DamageSignal(
        value=value,
        watch=limits.watch,
        damaged=limits.damaged,
        level=level,
        unit=limits.unit,
        reason=None if value is not None else "not_measured",
    )


def _shown(value: float | None, unit: str) -> DamageSignal:
    return DamageSignal(
        value=value,
        watch=None,
        damaged=None,
        level=None,
        unit=unit,
        reason=None if value is not None else "not_measured",
    )


def _combine(signals: dict[str, DamageSignal]) -> Level:
    """NLL and non-finite counts decide alone; hidden change and block swap count as the lower of the two."""
    structural = min(ORDER.index(signals[name].level or "none") for name in ("hidden_change", "block_swap_mean"))
    alone = max(ORDER.index(signals[name].level or "none") for name in ("nll_change", "non_finite"))
    return ORDER[max(structural, alone)]
