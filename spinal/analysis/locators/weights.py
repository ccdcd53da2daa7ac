"""How far the parameters of each block moved."""

from spinal.analysis.layers import Pair
from spinal.analysis.locators.profile import DepthProfile, Locator, known


def weigh(pair: Pair) -> DepthProfile:
    """Relative Frobenius change of each block; no forward pass, no sampling error."""
    return known(pair.evidence.weight_change)


WEIGHTS = Locator("weights", "weight change", weigh, rests_on_evidence=True)
