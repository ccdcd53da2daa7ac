"""Signals of the damage panel as bars against their limits."""

import math
from dataclasses import dataclass

from spinal.documents.comparison import Comparison
from spinal.report.content.cells import interval, number
from spinal.analysis.human_terms import unit_in_words
from spinal.report.content.gauges import Gauge, gauges

LEAST, MOST = -0.3, 1.45
"""What a bar shows, where 0 is no change and 1 the limit of damage; beyond it an arrow goes on."""


@dataclass(frozen=True)
class Drawn:
    """One bar, positions in per cent of its width."""

    gauge: Gauge
    zero: float
    watch: float
    limit: float
    asked: float | None
    """Where a rule of the policy has another limit."""
    left: float
    width: float
    ends: tuple[float, float] | None
    beyond: bool
    """Whether the value lies farther than a bar shows."""
    mark: str
    """Of how it is drawn: ``none``, ``watch``, ``damaged`` or ``unknown``."""
    sign: str
    """The same as a character, for who sees no colours."""


SIGNS = {"none": "✓", "watch": "!", "damaged": "✕", "unknown": "–"}


def drawn(result: Comparison) -> list[Drawn]:
    """Every signal that votes: beyond the limit first, unmeasured last, else in the panel's order."""
    order = {"damaged": 0, "watch": 1, "none": 2, "unknown": 3}
    return sorted((_drawn(one) for one in gauges(result)), key=lambda one: order[one.mark])


def nearest(result: Comparison) -> Gauge | None:
    """The signal that has come nearest to its limit."""
    known = [one for one in gauges(result) if one.reached is not None and math.isfinite(one.reached)]
    return max(known, key=lambda one: one.reached or 0.0, default=None)


def without_limit(result: Comparison) -> list[tuple[str, str]]:
    """(name, value) of signals that are shown and do not vote."""
    return [
        (
            name.replace("_", " "),
            f"{number(signal.value)} {interval(signal.ci)}".strip() + f" {unit_in_words(signal.unit)}"
            if signal.value is not None
            else f"not measured: {(signal.reason or '').replace('_', ' ')}",
        )
        for name, signal in result.damage.signals.items()
        if signal.watch is None
    ]


def _drawn(gauge: Gauge) -> Drawn:
    zero, reached = _at(0.0), gauge.reached
    mark = "unknown"
    if reached is not None:
        mark = {"within limits": "none", "worth a look": "watch"}.get(gauge.level, "damaged")
    at = zero if reached is None else _at(reached)
    return Drawn(
        gauge,
        zero,
        _at(gauge.watch),
        _at(1.0),
        None if gauge.asked is None else _at(gauge.asked),
        min(zero, at),
        abs(at - zero),
        None if gauge.ends is None else (_at(min(gauge.ends)), _at(max(gauge.ends))),
        reached is not None and reached > MOST,
        mark,
        SIGNS[mark],
    )


def _at(reached: float) -> float:
    """Per cent of the width."""
    return round(100.0 * (min(max(reached, LEAST), MOST) - LEAST) / (MOST - LEAST), 2)
