"""How the step into a node changes when its block is swapped."""

from spinal.analysis.layers import Pair
from spinal.analysis.locators.profile import DepthProfile, Locator, signed_means


def weigh(pair: Pair) -> DepthProfile:
    """Change of L into node l under the swap of block l."""
    return signed_means(pair.evidence.block_swap_transport, pair.swap_shares)


BLOCK_SWAP_TRANSPORT = Locator(
    "block_swap_transport", "step change under block swap", weigh, rests_on_evidence=True, compares_coordinates=True
)
