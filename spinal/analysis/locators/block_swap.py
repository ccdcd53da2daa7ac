"""What each block computes: the candidate's block on the reference's input."""

from spinal.analysis.layers import Pair
from spinal.analysis.locators.profile import DepthProfile, Locator, nonnegative


def weigh(pair: Pair) -> DepthProfile:
    """rho_l of each block, exactly 0 for a bit-identical one."""
    return nonnegative(pair.evidence.block_swap, pair.swap_shares)


BLOCK_SWAP = Locator(
    "block_swap", "block swap (what each block computes)", weigh, rests_on_evidence=True, compares_coordinates=True
)
