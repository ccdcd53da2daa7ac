"""The change of transport into each node: the paper's second profile."""

import numpy as np

from spinal.analysis.layers import MAIN_POSITIONS, Pair
from spinal.analysis.locators.profile import DepthProfile, Locator, signed_means


def weigh(pair: Pair) -> DepthProfile:
    """|d L_l|, l >= 2: the step 0 -> 1 is saturated whatever was trained, so node 1 weighs nothing."""
    mine, theirs = pair.reference_capture.at(MAIN_POSITIONS), pair.candidate_capture.at(MAIN_POSITIONS)
    transport = theirs.transport - mine.transport
    transport = np.where(np.arange(transport.shape[1]) == 1, 0.0, transport)[:, 1:]
    return signed_means(transport, pair.shares)


D_TRANSPORT = Locator("d_transport", "|d L| (paper)", weigh, rests_on_evidence=False)
