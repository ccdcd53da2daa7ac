"""When each way of watching a run raises its alarm: the rule of a series, and single curves with a threshold.

A curve's threshold is taken on healthy runs so that as many of them alarm as under the rule of a series; it is judged
on runs of other seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.trained_series.measured import Run
from spinal.documents.comparison import ComparisonContent
from spinal.documents.series import Series
from spinal.policy.series import assess

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One number of each audit, and how it is read; more is worse."""

    name: str
    value: Callable[[ComparisonContent], float]
    reading: Callable[[Array], Array]

    def over(self, run: Run) -> Array:
        """(members,) what the threshold is held against."""
        contents = [member.content for member in run.members if member.content is not None]
        # What is not finite any more is as bad as can be.
        values = np.nan_to_num(np.array([self.value(each) for each in contents]), nan=np.inf, posinf=np.inf)
        return self.reading(values)


def level(values: Array) -> Array:
    """The number as it is: the difference from the reference."""
    return values


def fall(values: Array) -> Array:
    """How much worse than the best so far."""
    return values - np.minimum.accumulate(values)


def change(values: Array) -> Array:
    """How much worse than at the checkpoint before."""
    return np.diff(values, prepend=values[:1])


def _nll(content: ComparisonContent) -> float:
    return _number(content.damage.signals["nll_change"].value)


def _kl(content: ComparisonContent) -> float:
    return _number(content.accounts["kl"].total.value if "kl" in content.accounts else None)


def _gap(content: ComparisonContent) -> float:
    return _number(content.damage.signals["gap"].value)


def _margin(content: ComparisonContent) -> float:
    return -_number(content.damage.signals["margin_change"].value)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


CURVES = tuple(
    Curve(f"{name}, {read}", value, reading)
    for name, value in (
        ("held-out NLL", _nll),
        ("KL to the reference", _kl),
        ("distance to the reference", _gap),
        ("margin", _margin),
    )
    for read, reading in (("level", level), ("fall from the best", fall), ("change since the last", change))
)


def threshold(curve: Curve, healthy: Sequence[Run], alarms: int) -> float:
    """The value that ``alarms`` of the healthy runs exceed."""
    highest = sorted((float(curve.over(run).max()) for run in healthy), reverse=True)
    return highest[alarms] if alarms < len(highest) else -np.inf


def first_beyond(curve: Curve, run: Run, limit: float) -> int | None:
    """Place of the first member beyond the threshold."""
    beyond = np.flatnonzero(curve.over(run) > limit)
    return int(beyond[0]) if beyond.size else None


def assessed(run: Run) -> Series:
    """The run judged by the default policy."""
    return assess("start", run.members)
