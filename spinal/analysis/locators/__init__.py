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
from spinal.documents.account import FRAME_CHANGED, WITHIN_ROUNDING
from spinal.documents.comparison import Frame, Localization
from spinal.documents.editions import PRESENT, Edition

LOCATORS: dict[str, Locator] = {
    locator.name: locator
    for locator in (BLOCK_SWAP, WEIGHTS, BLOCK_SWAP_TRANSPORT, D_CONTRACTION, D_TRANSPORT, FUNCTION)
}
"""By name, in the order of a report."""
NO_BLOCK_CHANGED = "no_block_changed"
PLACEABLE_KNOWN_SINCE = 5
"""Since which edition a profile has no place where no block, or the basis of the residuals, changed."""
THRESHOLD_KNOWN_SINCE = 5
"""Since which edition the interval of a thresholded profile's place reaches to its place without the threshold."""


def depth_profiles(pair: Pair, frame: Frame | None = None) -> dict[str, DepthProfile]:
    """The profile of every locator. One that rests on evidence which is absent says why that is. One has no place that
    holds no more than rounding (:mod:`spinal.analysis.floors`), that compares coordinates where the ``frame`` changed,
    or that shows over the blocks what lies outside them, since no block changed."""
    profiles = {name: _above_rounding(pair, name, locator.weigh(pair)) for name, locator in LOCATORS.items()}
    absent = pair.evidence.absent
    if absent is None:
        return {name: _placeable(pair, frame, LOCATORS[name], profile) for name, profile in profiles.items()}
    return {
        name: replace(profile, absent=absent) if LOCATORS[name].rests_on_evidence else profile
        for name, profile in profiles.items()
    }


def _placeable(pair: Pair, frame: Frame | None, locator: Locator, profile: DepthProfile) -> DepthProfile:
    if profile.absent is not None or not profile.weights.any() or pair.edition.since < PLACEABLE_KNOWN_SINCE:
        return profile
    if frame is not None and frame.changed and locator.compares_coordinates:
        return replace(profile, absent=FRAME_CHANGED)
    same = pair.evidence.identical_blocks
    return replace(profile, absent=NO_BLOCK_CHANGED) if same is not None and same.all() else profile


def _above_rounding(pair: Pair, name: str, profile: DepthProfile) -> DepthProfile:
    """Weights of parameters are read, not computed, and know no rounding."""
    largest = float(profile.weights.max())
    if profile.absent is not None or largest == 0.0 or name not in FLOORED:
        return profile
    return profile if largest >= pair_floor(pair, name) else replace(profile, absent=WITHIN_ROUNDING)


def place(
    profiles: dict[str, DepthProfile], terminal: tuple[int, int], edition: Edition = PRESENT
) -> dict[str, Localization]:
    """Localization of every profile; ``terminal`` is the first and last block of T. Before scorer 4 (``edition``)
    intervals did not know what a threshold took off."""
    knows = edition.since >= THRESHOLD_KNOWN_SINCE
    return {
        name: localize(
            p.weights, p.replicates, terminal, absent=p.absent, clipped=p.clipped, plain=p.plain if knows else None
        )
        for name, p in profiles.items()
    }
