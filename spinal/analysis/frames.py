"""Whether the two sides write their residuals in one basis (``docs/method.md`` ("Floors and frames")).

rho and the hidden change compare coordinates. A residual basis that is scaled or rotated, with weights that make up for
it, raises both to 1 and more, and changes nothing that the model says.
"""

import numpy as np

from spinal.analysis.layers import MAIN_POSITIONS
from spinal.analysis.uncertainty import prompt_means
from spinal.documents.comparison import Frame
from spinal.documents.evidence import PairEvidence

SAME_FUNCTION_RAD = 0.05
"""Mean distance of next-token distributions below which both sides say the same."""
LEFT_OVER = 0.05
"""Share of the last residual that another basis may leave over."""


def frame_of(evidence: PairEvidence, *, hidden_change: float, block_swap_mean: float) -> Frame:
    """Whether the frame changed: the gap at D is small, the hidden change or the mean rho is at or above its limit of
    the same name, and one orthogonal map with scale takes the reference's last residuals to the candidate's.

    Small values of coordinates need no other frame, and without an orthogonal map they are a change: structural values
    then keep their place and their vote. Where something was not measured the frame is not said to have changed.
    """
    gap = float(prompt_means(evidence.function_gap[MAIN_POSITIONS][:, -1:])[0])
    hidden = float(prompt_means(evidence.hidden_change[MAIN_POSITIONS][:, -1:])[0])
    swapped = prompt_means(evidence.block_swap)
    swapped = swapped[np.isfinite(swapped)]
    moved = hidden >= hidden_change or (swapped.size > 0 and float(swapped.mean()) >= block_swap_mean)
    residual = evidence.frame_residual
    # A comparison with NaN is false: what is unknown changes no frame.
    changed = gap < SAME_FUNCTION_RAD and moved and residual < LEFT_OVER
    return Frame(changed=bool(changed), residual=_finite(residual), gap=_finite(gap))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
