"""The change of contraction at each node: the paper's first profile."""

from spinal.analysis.layers import MAIN_POSITIONS, Pair, replicate_differences
from spinal.analysis.locators.profile import DepthProfile, Locator, signed
from spinal.analysis.uncertainty import alpha_deviations, alpha_se


def weigh(pair: Pair) -> DepthProfile:
    """|d alpha_l| in the window of the profile, l >= 1."""
    mine, theirs = pair.reference_capture.at(MAIN_POSITIONS), pair.candidate_capture.at(MAIN_POSITIONS)
    window = pair.window(MAIN_POSITIONS)
    replicates = replicate_differences(mine, theirs, window)[1:]
    deviations = alpha_deviations(replicates, mine.replicate_kind, pair.shares, pair.profile.seed)
    d_alpha = (theirs.alpha[window] - mine.alpha[window])[1:]
    return signed(d_alpha, deviations, alpha_se(replicates, mine.replicate_kind))


D_CONTRACTION = Locator("d_contraction", "|d alpha| (paper)", weigh, rests_on_evidence=False)
