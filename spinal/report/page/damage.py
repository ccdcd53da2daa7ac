"""Signals of the damage panel as bars against their limits."""

import math
from dataclasses import dataclass

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.comparison import Comparison, DamageSignal
from spinal.report.content.cells import interval, number
from spinal.report.content.gauges import LEVELS, NAMES, UNSURE, Gauge, gauges

LEAST, MOST = -0.35, 1.4
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
    times: str
    """How many times as far as the limit it lies; empty where it does not, or not beyond its error."""
    mark: str
    """Of how it is drawn: ``none``, ``watch``, ``damaged`` or ``unknown``."""
    sign: str
    """The same as a character, for who sees no colours."""


SIGNS = {"none": "✓", "watch": "!", "damaged": "✕", "unknown": "–"}


def drawn(result: Comparison) -> list[Drawn]:
    """Every signal that votes: beyond the limit first, unmeasured last, else in the panel's order."""
    order = {"damaged": 0, "watch": 1, "none": 2, "unknown": 3}
    return sorted(map(_drawn, gauges(result)), key=lambda one: order[one.mark])


def farthest(result: Comparison) -> Gauge | None:
    """The signal that has come farthest on the way to its limit, or beyond; None where none has moved towards it."""
    known = [one for one in gauges(result) if one.reached is not None and one.reached > 0.0]
    return max(known, key=lambda one: one.reached or 0.0, default=None)


def how_far(gauge: Gauge) -> str:
    """What to call the signal that has come farthest, for who reads that nothing fails."""
    if gauge.reached is None or gauge.reached < 1.0:
        return "Nearest to its limit"
    if gauge.level == LEVELS["damaged"]:
        return "Beyond the damage panel's limit all the same"
    return "Beyond its limit, and not surely"


def without_limit(result: Comparison) -> list[str]:
    """Signals that are shown and do not vote, each with its value."""
    return [
        f"{_name(name, signal)} {_value(signal)} {unit_in_words(signal.unit)}"
        for name, signal in result.damage.signals.items()
        if signal.watch is None and signal.value is not None
    ]


def unmeasured(result: Comparison) -> list[str]:
    """Signals without a value and without a limit, each with why."""
    return [
        f"{_name(name, signal)} ({(signal.reason or 'not measured').replace('_', ' ')})"
        for name, signal in result.damage.signals.items()
        if signal.watch is None and signal.value is None
    ]


def _name(name: str, signal: DamageSignal) -> str:
    return NAMES.get(name, name.replace("_", " ")) + (f" ({signal.of})" if signal.of else "")


def _value(signal: DamageSignal) -> str:
    return f"{number(signal.value)} {interval(signal.ci)}".strip()


def _drawn(gauge: Gauge) -> Drawn:
    zero, reached = _at(0.0), gauge.reached
    mark = "unknown"
    if reached is not None:
        mark = {LEVELS["none"]: "none", UNSURE: "none", LEVELS["watch"]: "watch"}.get(gauge.level, "damaged")
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
        number(reached, 2) if reached is not None and mark != "none" and 1.05 < reached < math.inf else "",
        mark,
        SIGNS[mark],
    )


def ends() -> tuple[float, float]:
    """Where no change and the limit are, per cent of a bar's width."""
    return _at(0.0), _at(1.0)


def _at(reached: float) -> float:
    """Per cent of the width."""
    return round(100.0 * (min(max(reached, LEAST), MOST) - LEAST) / (MOST - LEAST), 2)
