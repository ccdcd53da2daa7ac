"""The change of contraction at each node: the paper's first profile."""

from spinal.analysis.layers import Pair, replicate_differences
from spinal.analysis.locators.profile import POSITIONS, DepthProfile, Locator, signed
from spinal.analysis.uncertainty import alpha_deviations, alpha_se


def weigh(pair: Pair) -> DepthProfile:
    """|d alpha_l| in the window of the profile, l >= 1."""
    mine, theirs = pair.reference_capture.policy(POSITIONS), pair.candidate_capture.policy(POSITIONS)
    window = pair.window(POSITIONS)
    replicates = replicate_differences(mine, theirs, window)[1:]
    deviations = alpha_deviations(replicates, mine.replicate_kind, pair.shares, pair.profile.seed)
    d_alpha = (theirs.alpha[window] - mine.alpha[window])[1:]
    return signed(d_alpha, deviations, alpha_se(replicates, mine.replicate_kind))


D_CONTRACTION = Locator("d_contraction", "|d alpha| (paper)", weigh)
