"""Every detector over every signal of a series, so that false alarms count per series: n members, P prompts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spinal.analysis.series.change_points import MINIMUM, Break, change_points
from spinal.analysis.series.cusum import FIRST, Shift, cusum
from spinal.analysis.series.drawdown import Drawdown, drawdown
from spinal.analysis.series.pairing import present
from spinal.analysis.series.thresholds import FALSE_ALARMS, FEWEST, threshold
from spinal.analysis.uncertainty import FAMILY_ERROR

Array = npt.NDArray[np.float64]
Part = str | None


@dataclass(frozen=True, eq=False)
class Falling:
    """A signal of damage, or what one category has of it."""

    values: Array
    """(n, P), NaN where not measured. Bad is up."""
    least: float
    of_best: float = 0.0
    counted: bool = False


@dataclass(frozen=True, eq=False)
class Moving:
    """A signal without a better side."""

    values: Array
    """(n,), NaN where not measured."""
    least: float
    upward: bool = False
    """Whether only growth beyond the line before counts."""

    @property
    def last(self) -> int:
        """The last member that has it."""
        return int(np.flatnonzero(np.isfinite(self.values))[-1])


@dataclass(frozen=True, eq=False)
class Found:
    """What every detector found, by signal; a signal that has too few members is in none."""

    drawdowns: dict[str, dict[Part, Drawdown]]
    breaks: dict[str, tuple[Break, ...]]
    """Every change point, whether it counts or not."""
    counted_breaks: dict[str, tuple[Break, ...]]
    """Those whose change surely exceeds the least effect, on the side that counts."""
    shifts: dict[str, tuple[Shift, ...]]
    """Those on the plateau that exceed the least effect."""
    tests: int
    """How many signals times detectors the false alarms are shared among."""


def detect(
    falling: Mapping[str, Mapping[Part, Falling]],
    moving: Mapping[str, Moving],
    plateau: npt.NDArray[np.bool_] | None = None,
    *,
    lows_everywhere: bool = True,
) -> Found:
    """Look at all of them. ``falling`` signals have one part each, or one for every category: its threshold and its
    intervals are then corrected for looking at all of these. ``plateau`` (n,) marks the members of an approved plateau.
    """
    judged = {
        name: {part: of for part, of in parts.items() if present(of.values).size >= FEWEST}
        for name, parts in falling.items()
    }
    judged = {name: parts for name, parts in judged.items() if parts}
    broken = {name: of for name, of in moving.items() if np.isfinite(of.values).sum() >= 2 * MINIMUM}
    level_part = {name: np.where(plateau, of.values, np.nan) for name, of in moving.items() if plateau is not None}
    level_part = {name: values for name, values in level_part.items() if np.isfinite(values).sum() > FIRST}
    tests = max(len(judged) + len(broken) + len(level_part), 1)
    drawdowns = {
        name: {
            part: drawdown(
                of.values,
                threshold(present(of.values).size, tests * len(parts)),
                of.least,
                of_best=of.of_best,
                counted=of.counted,
                level=1.0 - FAMILY_ERROR / len(parts),
                lows_everywhere=lows_everywhere,
            )
            for part, of in parts.items()
        }
        for name, parts in judged.items()
    }
    breaks = {name: change_points(of.values, FALSE_ALARMS / tests) for name, of in broken.items()}
    return Found(
        drawdowns=drawdowns,
        breaks=breaks,
        counted_breaks={
            name: tuple(
                one for one in found if one.low > moving[name].least and (one.change > 0.0 or not moving[name].upward)
            )
            for name, found in breaks.items()
        },
        shifts={
            name: tuple(
                one
                for one in cusum(values, FALSE_ALARMS / tests)
                if abs(one.shift) > moving[name].least and (one.shift > 0.0 or not moving[name].upward)
            )
            for name, values in level_part.items()
        },
        tests=tests,
    )
