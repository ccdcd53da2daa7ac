"""Where the gap between both sides' next-token distributions grows."""

from spinal.analysis.layers import Pair
from spinal.analysis.locators.profile import POSITIONS, DepthProfile, Locator, increments


def weigh(pair: Pair) -> DepthProfile:
    """max(0, f_l - f_{l-1})."""
    return increments(pair.evidence.function_gap[POSITIONS], pair.shares)


FUNCTION = Locator("function", "function increments", weigh)
