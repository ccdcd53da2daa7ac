"""From where on a signal is worth a look, and from where on it is damage: every limit of the panel, in one table.

How they were taken: ``watch`` lies above the largest value of the healthy fine-tunes that ``python -m
benchmarks.verdicts`` builds, ``damaged`` below the smallest of the wrecked models that the signal is there to find, on
three ancestors of 2 to 135 M parameters (``docs/damage.md``). There a healthy fine-tune raises NLL by up to 0.06 nats a
token, moves the output by up to 0.24 radians and the log of the fitted temperature by up to 0.024; rounding a model of
135 M parameters to int4 raises NLL by 0.38 and moves the output by 1.05 radians, which warns and does not fail.
"""

from collections.abc import Iterable
from dataclasses import dataclass

MIN_PROMPTS = 5
"""With fewer prompts there is no interval that could be sure of anything, and a category is not judged."""
END_FLOOR = 7.0
"""An end token of probability below exp(-7), one in a thousand, ends nothing: how far below does not count."""
AT_ONCE = 1
"""A continuation of at most so many tokens before its end is one that says nothing."""


@dataclass(frozen=True)
class Limit:
    """Limits of one signal. Bad is up where ``damaged`` lies above ``neutral``, else down."""

    watch: float
    damaged: float
    unit: str
    fails_alone: bool = False
    neutral: float = 0.0
    """The value of a candidate that is its reference."""
    both: bool = False
    """Of a ratio: whether the reciprocals are as bad."""
    watch_if_sure: bool = False
    """Whether ``watch`` needs an interval beyond ``neutral``, too: of what is the worst of many, or is noisy."""

    def on_the_side_of(self, value: float) -> tuple[float, float]:
        """(watch, damaged) of the side on which ``value`` lies."""
        if self.both and value < self.neutral:
            return 1.0 / self.watch, 1.0 / self.damaged
        return self.watch, self.damaged


def beyond(value: float, limit: float, *, down: bool) -> bool:
    """Whether ``value`` has reached ``limit`` on its bad side."""
    return value <= limit if down else value >= limit


LIMITS: dict[str, Limit] = {
    # How well it predicts: damage by itself.
    "nll_change": Limit(0.3, 1.0, "nats/token", fails_alone=True),
    "nll_change_worst_category": Limit(0.5, 1.0, "nats/token", fails_alone=True, watch_if_sure=True),
    # Whether it ends: never any more, or at once.
    "end_share_change": Limit(-0.25, -0.5, "of greedy continuations", fails_alone=True),
    "end_at_once_change": Limit(0.25, 0.5, "of greedy continuations"),
    "end_log_p_change": Limit(-1.0, -3.0, "nats", fails_alone=True),
    # How sure it is of itself.
    "log_temperature": Limit(0.12, 0.2, "|log| of fitted temperatures", fails_alone=True),
    "non_finite": Limit(1.0, 1.0, "activations", fails_alone=True),
    # Whether it prefers what it should.
    "margin_change": Limit(-0.5, -2.0, "nats", fails_alone=True, watch_if_sure=True),
    # How far it moved: a long healthy fine-tune goes far, too, so these warn only.
    "gap": Limit(0.5, 1.0, "rad"),
    "hidden_change": Limit(0.4, 0.8, "of ||r_D||"),
    "block_swap_mean": Limit(0.25, 0.4, "of a block's own update"),
    "repetition_change": Limit(0.2, 0.5, "of 3-grams"),
    "length_ratio": Limit(3.0, 10.0, "times as long", neutral=1.0, both=True),
    "nll_change_worst_tenth": Limit(1.0, 3.0, "nats/token"),
}
"""By signal, in the order of a report."""
AGREEING = ("gap", "hidden_change", "block_swap_mean", "repetition_change", "length_ratio")
"""Two of these beyond their ``damaged``, and NLL beyond its ``watch``: damaged."""


def calibration() -> str:
    """What the panel's levels mean and what the limits rest on, with every limit out of the table."""
    alone = _listed(limit.fails_alone for limit in LIMITS.values())
    warning = _listed(not limit.fails_alone for limit in LIMITS.values())
    return (
        "Watch / damaged. Each of these is damage by itself where the near end of its 95% interval is beyond the "
        f"second limit: {alone}. These only warn: {warning}; two of {', '.join(AGREEING)} beyond their second limits "
        f"are damage where nll_change is at {LIMITS['nll_change'].watch:g} or more. 'watch' needs one value at its "
        f"first limit. Below {MIN_PROMPTS} prompts nothing is sure enough to be damage. Limits lie between healthy "
        "fine-tunes and wrecked models built from small ancestors (`python -m benchmarks.verdicts` prints them with "
        "misses and false alarms); they say nothing certain about larger models, longer training or base-to-instruct "
        "pairs: read the values there, and name a control. What has no limit is shown and has no vote."
    )


def _listed(wanted: Iterable[bool]) -> str:
    return ", ".join(
        f"{name} {limit.watch:g} / {limit.damaged:g}"
        + (" (or its reciprocal)" if limit.both else "")
        + (" (watch only where its interval is beyond 0)" if limit.watch_if_sure else "")
        for (name, limit), chosen in zip(LIMITS.items(), wanted, strict=True)
        if chosen
    )
