"""``damage.<signal>``: the signals of the damage panel."""

import math

from spinal.analysis.damage.limits import LIMITS
from spinal.policy.values.base import OF_THAT_RELEASE, Named, Namespace, Sources, Value, absent, by_name

SHOWN = {
    "entropy_change": ("change of the mean entropy of the next token", "nats"),
    "effective_rank_ratio": ("effective rank in the terminal window, candidate over reference", "ratio in T"),
    "top_token_changes": ("share of read positions whose most likely token is another", "of read positions"),
}
"""Signals that the panel shows and gives no limits: what they mean, and their unit."""
MEANS = {
    "nll_change": "how much worse text is predicted",
    "nll_change_worst_category": "the same for the category that got worse most, corrected for looking at all of them",
    "end_share_change": "change of the share of greedy answers that end",
    "end_at_once_change": "change of the share of greedy answers that say nothing",
    "end_log_p_change": "change of the log probability of an end where an answer is over",
    "log_temperature": "how far the candidate is too sure or too unsure of itself",
    "non_finite": "activations and answers that are not finite",
    "margin_change": "change of log p(preferred) - log p(rejected), where pairs were given",
    "gap": "distance of the next-token distributions",
    "hidden_change": "distance of the last hidden states",
    "block_swap_mean": "how differently blocks answer the same input",
    "repetition_change": "change of the share of repeated 3-grams in greedy answers",
    "length_ratio": "length of greedy answers, candidate over reference",
    "nll_change_worst_tenth": "how much worse the tenth of the prompts is predicted that got worse most",
}
SHARES = ("end_share_change", "end_at_once_change", "repetition_change")
SIZES = ("log_temperature", "non_finite", "hidden_change", "block_swap_mean", "length_ratio", "effective_rank_ratio")
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(SHARES, (-1.0, 1.0)),
    **dict.fromkeys(SIZES, (0.0, math.inf)),
    "gap": (0.0, math.pi),
    "top_token_changes": (0.0, 1.0),
}
ANYWHERE = (-math.inf, math.inf)


def _named(signal: str, means: str, unit: str) -> Named:
    low, high = RANGES.get(signal, ANYWHERE)
    return Named(f"damage.{signal}", means, unit, low, high, 1.0 if "ratio" in signal else 0.0)


MEMBERS = {
    **{name: _named(name, MEANS[name], limit.unit) for name, limit in LIMITS.items()},
    **{name: _named(name, *told) for name, told in SHOWN.items()},
}


def _read(sources: Sources, rest: str) -> Value:
    signal = sources.content.damage.signals.get(rest)
    if signal is None:
        return absent(OF_THAT_RELEASE)
    votes = signal.watch is not None
    if signal.value is not None and not votes and rest in LIMITS:
        # Measured in coordinates that the two sides do not share.
        return absent(signal.reason or "not judged here")
    return Value(
        signal.value,
        signal.ci,
        signal.se,
        None if signal.value is not None else signal.reason or "not measured",
        signal.of,
        asked=votes or rest in SHOWN,
        signal=signal,
    )


DAMAGE = Namespace("damage", *by_name("damage", MEMBERS), _read)
