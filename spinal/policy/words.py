"""A value as a sentence: what it means for whoever uses the model, the number, and the limit."""

import math
from collections.abc import Callable

from spinal.analysis.human_terms import drawn_differently, one_in, perplexity_ratio, times, unit_in_words
from spinal.documents.comparison import DamageSignal
from spinal.documents.temperatures import TEMPERATURES
from spinal.numbers import interval, number, signed
from spinal.policy.values import Value, named

FARTHEST = 0.85 * min(-math.log(TEMPERATURES[0]), math.log(TEMPERATURES[-1]))
"""|log| of a temperature near the end of those that are tried: the reference's own, which is taken off, is not 1."""


def told(path: str, found: Value, *, watch: float | None, limit: float | None, far: bool = False) -> str:
    """The value at ``path`` under a rule's own limits: ``far`` where it is beyond ``limit``, so that the milder
    ``watch`` says nothing more."""
    signal = found.signal
    if signal is None:
        return _in_general(path, found, watch=watch, limit=limit, far=far)
    # What an earlier release kept without an interval and called damaged is called so.
    level = "damaged" if far or (found.ci is None and signal.level == "damaged") else "watch"
    ours = signal.model_copy(update={"watch": watch, "damaged": limit, "level": level})
    return sentence(path.partition(".")[2], ours)


def _in_general(path: str, found: Value, *, watch: float | None, limit: float | None, far: bool) -> str:
    listed, value = named(path), found.value
    if listed is None or value is None:
        raise ValueError(f"{path} has no value to put in words")
    of = "" if found.of is None else f" ('{found.of}')"
    written = signed(value) if listed.low < 0.0 else number(value)
    unit = f" {listed.unit.replace('/', ' a ')}" if listed.unit else ""
    return f"{listed.means}{of} ({path}): {written}{unit}{_interval(found.ci)}{_limits(watch, limit, far=far)}"


def sentence(name: str, signal: DamageSignal) -> str:
    """For a signal with a value: ``predicts text 48 times worse: +3.87 nats a token [3.5, 4.2], limit 1.0``."""
    value = signal.value
    if value is None:
        raise ValueError(f"{name} has no value to put in words")
    meaning = MEANINGS.get(name)
    means = f"{meaning(value, signal)}: " if meaning is not None else f"{name.replace('_', ' ')}: "
    return f"{means}{_number(name, value)} {unit_in_words(signal.unit)}{_interval(signal.ci)}{_limit(signal)}"


def _predicts(what: str) -> Callable[[float, DamageSignal], str]:
    def said(value: float, signal: DamageSignal) -> str:
        about = what.format(of=signal.of)
        if value >= 0.0:
            return f"predicts {about} {times(perplexity_ratio(value))} times worse"
        return f"predicts {about} {times(perplexity_ratio(-value))} times better"

    return said


def _ends(value: float, signal: DamageSignal) -> str:
    # One that goes on may end later: it was stopped at a number of tokens.
    change = "no longer ends" if value < 0.0 else "now ends"
    return f"{change} {_percent(abs(value))} of its answers within the tokens that it was given"


def _ends_at_once(value: float, signal: DamageSignal) -> str:
    return f"{'now says' if value >= 0.0 else 'no longer says'} nothing in {_percent(abs(value))} of its answers"


def _end_probability(value: float, signal: DamageSignal) -> str:
    direction = "less" if value < 0.0 else "more"
    return f"ends {times(perplexity_ratio(abs(value)))} times {direction} likely where an answer is over"


def _temperature(value: float, signal: DamageSignal) -> str:
    # One beyond the temperatures that are tried is taken at their end.
    least = "at least " if value >= FARTHEST else ""
    factor = times(perplexity_ratio(value))
    return f"is too sure or too unsure of itself: its temperature is off by a factor of {least}{factor}"


def _non_finite(value: float, signal: DamageSignal) -> str:
    return "computes numbers that are not finite"


def _margin(value: float, signal: DamageSignal) -> str:
    return f"prefers the {'rejected' if value < 0.0 else 'preferred'} answers more than the reference does"


def _drawn(value: float, signal: DamageSignal) -> str:
    least, most = drawn_differently(value)
    return f"draws between {one_in(least)} and {one_in(most)} differently"


def _hidden(value: float, signal: DamageSignal) -> str:
    return "ends in other hidden states"


def _blocks(value: float, signal: DamageSignal) -> str:
    return "has blocks that answer the same input differently"


def _repeats(value: float, signal: DamageSignal) -> str:
    return f"repeats itself in {_percent(abs(value))} {'more' if value >= 0.0 else 'less'} of what it says"


def _length(value: float, signal: DamageSignal) -> str:
    return f"answers {times(value)} times as long" if value >= 1.0 else f"answers {times(1.0 / value)} times as short"


MEANINGS: dict[str, Callable[[float, DamageSignal], str]] = {
    "nll_change": _predicts("text"),
    "nll_change_worst_category": _predicts("text of category '{of}'"),
    "nll_change_worst_tenth": _predicts("the tenth of the prompts that got worse most"),
    "end_share_change": _ends,
    "end_at_once_change": _ends_at_once,
    "end_log_p_change": _end_probability,
    "log_temperature": _temperature,
    "non_finite": _non_finite,
    "margin_change": _margin,
    "gap": _drawn,
    "hidden_change": _hidden,
    "block_swap_mean": _blocks,
    "repetition_change": _repeats,
    "length_ratio": _length,
}
"""By signal; one that is not here is called by its name."""
SIGNED = tuple(name for name in MEANINGS if "_change" in name and name != "hidden_change")
LOOKS: dict[str, str] = {
    "nll_change": "how well it predicts text",
    "nll_change_worst_category": "each category by itself",
    "nll_change_worst_tenth": "the prompts that got worse most",
    "end_share_change": "whether and when its answers end",
    "end_at_once_change": "whether and when its answers end",
    "end_log_p_change": "whether and when its answers end",
    "log_temperature": "whether it is too sure or too unsure of itself",
    "margin_change": "whether it prefers the answers that it should",
    "gap": "how far its output moved",
    "hidden_change": "how far its hidden states moved",
    "block_swap_mean": "what its blocks compute",
    "repetition_change": "whether it repeats itself",
    "length_ratio": "how long its answers are",
}
"""What looking at a signal tells."""


def _number(name: str, value: float) -> str:
    return signed(value) if name in SIGNED else number(value)


def _interval(ci: tuple[float, float] | None) -> str:
    return "" if ci is None or ci[0] == ci[1] else f" {interval(*ci)}"


def _limit(signal: DamageSignal) -> str:
    return _limits(signal.watch, signal.damaged, far=signal.level == "damaged")


def _limits(watch: float | None, limit: float | None, *, far: bool) -> str:
    failing = "" if limit is None else f", limit {_rounded(limit)}"
    return failing if watch is None or far else f", worth a look from {_rounded(watch)}{failing}"


def _rounded(limit: float) -> str:
    return str(round(limit, 3)) if limit == 0.0 or abs(limit) >= 0.001 else f"{limit:.2g}"


def _percent(share: float) -> str:
    return f"{100.0 * share:.0f}%"
