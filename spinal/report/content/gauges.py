"""Signals of the damage panel against their limits, in plain words."""

import math
from dataclasses import dataclass

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.comparison import Comparison, DamageSignal
from spinal.numbers import signed
from spinal.report.content.cells import DASH, Table, interval, number

NAMES = {
    "nll_change": "predicts text worse",
    "nll_change_worst_category": "worst category",
    "nll_change_worst_tenth": "worst tenth of the prompts",
    "end_share_change": "answers that end",
    "end_at_once_change": "answers that say nothing",
    "end_log_p_change": "ends where answers are over",
    "log_temperature": "too sure or too unsure",
    "non_finite": "numbers that are not finite",
    "margin_change": "prefers what it should",
    "gap": "output moved",
    "hidden_change": "hidden states moved",
    "block_swap_mean": "blocks answer differently",
    "repetition_change": "repeats itself",
    "length_ratio": "length of its answers",
    "entropy_change": "entropy of the next token",
    "effective_rank_ratio": "effective rank in the last third",
    "top_token_changes": "most likely token is another",
}
"""By signal, as short as a table needs; one that is not here is called by its name."""
LEVELS = {"none": "within limits", "watch": "worth a look", "damaged": "beyond the limit"}
UNSURE = "within its error"
"""Of a value that is far enough for a look and cannot be told from no change."""


@dataclass(frozen=True)
class Gauge:
    """One signal that has a limit, on a scale from no change (0) to damage (1)."""

    name: str
    value: str
    """With its interval and unit."""
    number: str
    """The same without its unit."""
    unit: str
    limit: str
    level: str
    reached: float | None
    """How far the value has come; below 0 on the good side, above 1 beyond the limit, None without a value."""
    watch: float
    """Where on the scale it is worth a look."""
    alone: bool
    """Whether it is damage by itself beyond the limit."""
    ends: tuple[float, float] | None = None
    """Ends of the value's interval on the scale, where it has one."""
    asked: float | None = None
    """Where on the scale a rule of the verdict's policy has a limit of its own."""


def gauges(result: Comparison) -> tuple[Gauge, ...]:
    """Every signal that votes, in the order of the panel."""
    return tuple(
        _gauge(name, signal, _own_limit(result, name, signal))
        for name, signal in sorted(result.damage.signals.items(), key=_place)
        if signal.watch is not None and signal.damaged is not None
    )


def damage_summary(result: Comparison) -> Table:
    """What the gauges say, as a table."""
    rows = [(one.name, one.value, one.limit, one.level) for one in gauges(result)]
    return Table("Damage against its limits", ("signal", "value", "damage at", "level"), tuple(rows))


def _own_limit(result: Comparison, name: str, signal: DamageSignal) -> float | None:
    """The nearest limit on a signal's bad side that a rule has and the panel has not."""
    up = (signal.damaged or 0.0) >= (signal.watch or 0.0)
    asked = [
        rule.limit
        for rule in result.verdict.rules
        if rule.path == f"damage.{name}" and rule.limit is not None and (rule.bad == "above") is up
    ]
    own = [limit for limit in asked if limit not in (signal.watch, signal.damaged)]
    return (min(own) if up else max(own)) if own else None


def _place(item: tuple[str, DamageSignal]) -> int:
    """In the panel: a document that a database kept has its members in another order."""
    return list(NAMES).index(item[0]) if item[0] in NAMES else len(NAMES)


def _gauge(name: str, signal: DamageSignal, asked: float | None = None) -> Gauge:
    # Here, so that asking which formats there are loads no analysis.
    from spinal.analysis.damage.limits import LIMITS

    kept = LIMITS.get(name)
    neutral = 0.0 if kept is None else kept.neutral
    ratio = kept is not None and kept.both
    watch, damaged = signal.watch or 0.0, signal.damaged or 0.0
    what = NAMES.get(name, name.replace("_", " ")) + (f" ({signal.of})" if signal.of else "")
    level = LEVELS[signal.level] if signal.level else f"not measured: {(signal.reason or '').replace('_', ' ')}"
    unit = unit_in_words(signal.unit)
    side = "more" if damaged >= neutral else "less"

    def reached(at: float) -> float:
        return _reached(at, neutral, damaged, ratio=ratio)

    from_here_on = min(1.0, max(0.0, reached(watch)))
    if signal.level == "none" and signal.value is not None and reached(signal.value) >= from_here_on > 0.0:
        level = UNSURE
    return Gauge(
        name=what,
        value=f"{_number(name, signal)} {unit}" if signal.value is not None else DASH,
        number=_number(name, signal),
        unit=unit,
        limit=f"{number(damaged)} or {side}",
        level=level,
        reached=None if signal.value is None else reached(signal.value),
        watch=from_here_on,
        alone=signal.fails_alone,
        ends=None if signal.ci is None else (reached(signal.ci[0]), reached(signal.ci[1])),
        asked=None if asked is None else reached(asked),
    )


def _number(name: str, signal: DamageSignal) -> str:
    if signal.value is None:
        return DASH
    # A length is no change, whatever its name.
    written = signed if "_change" in name and name != "hidden_change" else number
    return f"{written(signal.value)} {interval(signal.ci)}".strip()


def _reached(value: float, neutral: float, damaged: float, *, ratio: bool) -> float:
    """0 at ``neutral``, 1 at ``damaged``; ratios by their logarithms, and one of 0 or less is beyond any limit."""
    if ratio:
        if value <= 0.0 or damaged <= 0.0:
            return math.inf
        value, damaged, neutral = math.log(value), math.log(damaged), math.log(neutral)
    whole = damaged - neutral
    return (value - neutral) / whole if whole else 0.0
