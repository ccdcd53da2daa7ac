"""Where along the depth a change sits: one file here, and one line in ``LOCATORS``, for each way to tell."""

from dataclasses import replace

from spinal.analysis.floors import FLOORED, pair_floor
from spinal.analysis.layers import Pair
from spinal.analysis.localization import localize
from spinal.analysis.locators.block_swap import BLOCK_SWAP
from spinal.analysis.locators.block_swap_transport import BLOCK_SWAP_TRANSPORT
from spinal.analysis.locators.d_contraction import D_CONTRACTION
from spinal.analysis.locators.d_transport import D_TRANSPORT
from spinal.analysis.locators.function import FUNCTION
from spinal.analysis.locators.profile import DepthProfile, Locator
from spinal.analysis.locators.weights import WEIGHTS
from spinal.documents.account import WITHIN_ROUNDING
from spinal.documents.comparison import Localization

LOCATORS: dict[str, Locator] = {
    locator.name: locator
    for locator in (BLOCK_SWAP, WEIGHTS, BLOCK_SWAP_TRANSPORT, D_CONTRACTION, D_TRANSPORT, FUNCTION)
}
"""By name, in the order of a report."""


def depth_profiles(pair: Pair) -> dict[str, DepthProfile]:
    """The profile of every locator. One that rests on evidence which is absent says why that is, and one that holds no
    more than rounding (:mod:`spinal.analysis.floors`) has no place."""
    profiles = {name: _above_rounding(pair, name, locator.weigh(pair)) for name, locator in LOCATORS.items()}
    absent = pair.evidence.absent
    if absent is None:
        return profiles
    return {
        name: replace(profile, absent=absent) if LOCATORS[name].rests_on_evidence else profile
        for name, profile in profiles.items()
    }


def _above_rounding(pair: Pair, name: str, profile: DepthProfile) -> DepthProfile:
    """Weights of parameters are read, not computed, and know no rounding."""
    largest = float(profile.weights.max())
    if profile.absent is not None or largest == 0.0 or name not in FLOORED:
        return profile
    return profile if largest >= pair_floor(pair, name) else replace(profile, absent=WITHIN_ROUNDING)


def place(profiles: dict[str, DepthProfile], terminal: tuple[int, int]) -> dict[str, Localization]:
    """Localization of every profile; ``terminal`` is the first and last block of T."""
    return {
        name: localize(p.weights, p.replicates, terminal, absent=p.absent, clipped=p.clipped)
        for name, p in profiles.items()
    }
