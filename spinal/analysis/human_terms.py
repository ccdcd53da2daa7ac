"""Numbers of a comparison in terms that need no training: ratios, shares, one token in so many."""

import math

UNITS = {
    "of ||r_D||": "of the length of the last hidden state",
    "|log| of fitted temperatures": "in the log of the temperature",
    "ratio in T": "times the reference's",
}
"""What is a formula as a unit, in words."""


def perplexity_ratio(nll_change: float) -> float:
    """How many times as many tokens the candidate hesitates between: exp of the change of NLL (nats/token)."""
    return math.exp(min(nll_change, 700.0))


def drawn_differently(gap: float) -> tuple[float, float]:
    """Between which shares of tokens would be drawn differently by the two models: bounds of the total variation
    distance of two distributions at Fisher-Rao distance ``gap`` (radians, at most pi).

    With the Bhattacharyya coefficient b = cos(gap / 2): 1 - b <= TV <= sqrt(1 - b^2). The lower one is convex in the
    gap and the upper one concave, so both hold for means over positions and prompts, too.
    """
    return 1.0 - math.cos(gap / 2), math.sin(gap / 2)


def times(ratio: float) -> str:
    """A ratio in words' precision: ``1.08``, ``3.4``, ``48``, ``more than 1,000,000``."""
    if ratio >= 1e6:
        return "more than 1,000,000"
    if ratio >= 10.0:
        return f"{ratio:,.0f}"
    return f"{ratio:.2g}" if ratio >= 1.1 else f"{ratio:.3g}"


def one_in(share: float) -> str:
    """A share of tokens: ``1 token in 7``, ``1 token in more than 10,000``, ``7 tokens in 10``, ``nearly every
    token``."""
    if share <= 1e-4:
        return "1 token in more than 10,000"
    if share < 0.5:
        return f"1 token in {round(1.0 / share):,}"
    # From a half on the reciprocal is too coarse: of 2 tokens in 3 it would make every one.
    tenths = round(10.0 * share)
    return "nearly every token" if tenths == 10 else "1 token in 2" if tenths == 5 else f"{tenths} tokens in 10"


def unit_in_words(unit: str) -> str:
    """The unit of a document as people say it.

    >>> unit_in_words("nats/token"), unit_in_words("rad")
    ('nats a token', 'rad')
    """
    return UNITS.get(unit, unit.replace("/", " a "))
