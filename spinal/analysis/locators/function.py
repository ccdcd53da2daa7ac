"""Where the gap between both sides' next-token distributions grows."""

from spinal.analysis.layers import MAIN_POSITIONS, Pair
from spinal.analysis.locators.profile import DepthProfile, Locator, increments


def weigh(pair: Pair) -> DepthProfile:
    """max(0, f_l - f_{l-1})."""
    return increments(pair.evidence.function_gap[MAIN_POSITIONS], pair.shares)


FUNCTION = Locator("function", "function increments", weigh, rests_on_evidence=True)
