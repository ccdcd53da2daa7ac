"""Controls that were measured: matched noise, and a checkpoint the caller named (``docs/method.md`` ("Controls"))."""

import numpy as np
import numpy.typing as npt

from spinal.analysis.layers import MAIN_POSITIONS, Pair
from spinal.analysis.nulls import percentile_of
from spinal.analysis.scores import Curves, curve_scores, curves, terminal_nodes
from spinal.analysis.uncertainty import MDE_FACTOR, percentile_interval, prompt_means
from spinal.documents.base import Estimate, missing
from spinal.documents.capture import Capture
from spinal.documents.comparison import Null

Array = npt.NDArray[np.float64]
CONTRASTED = ("delta_align", "contraction_rise", "transport_fall", "coherence")


def noise_null(pair: Pair, observed: float | None) -> Null:
    """|Delta_align| against that of random perturbations with the candidate's norm of change in every tensor."""
    window, nodes = pair.window(MAIN_POSITIONS), terminal_nodes(pair.terminal)
    before = curves(pair.reference_capture.at(MAIN_POSITIONS), window, pair.shares, pair.profile.seed)
    found = []
    for draw in pair.evidence.noise:
        alpha, transport = draw.alpha[window], prompt_means(draw.transport)
        after = Curves(alpha, alpha[None], transport, transport[None])
        found.append(curve_scores(before, after, nodes)[0]["delta_align"])
    sizes = tuple(abs(value) for value in found if np.isfinite(value))
    size = None if observed is None else abs(observed)
    lost = len(found) - len(sizes)
    return Null(
        statistic="|delta_align|",
        values=sizes,
        observed=size,
        percentile=percentile_of(size, sizes),
        note=(
            f"{len(found)} random perturbations of the reference with the candidate's norm of change in every tensor"
            + (f"; {lost} of them gave no value" if lost else "")
        ),
    )


def control_null(pair: Pair, control: Capture, source: str) -> Null:
    """The candidate's scores minus the control's, both against the one reference, paired over prompts."""
    window, nodes, seed = pair.window(MAIN_POSITIONS), terminal_nodes(pair.terminal), pair.profile.seed
    before, candidate, other = (
        curves(capture.at(MAIN_POSITIONS), window, pair.shares, seed)
        for capture in (pair.reference_capture, pair.candidate_capture, control)
    )
    mine, my_draws = curve_scores(before, candidate, nodes)
    theirs, their_draws = curve_scores(before, other, nodes)
    value = theirs["delta_align"]
    return Null(
        statistic="delta_align",
        values=(value,) if np.isfinite(value) else (),
        observed=mine["delta_align"] if np.isfinite(mine["delta_align"]) else None,
        percentile=None,
        note=f"{source}, traced on the same prompts; the contrast is candidate minus control",
        contrast={
            name: _contrast(mine[name] - theirs[name], my_draws[name] - their_draws[name]) for name in CONTRASTED
        },
    )


def _contrast(value: float, draws: Array) -> Estimate:
    if not np.isfinite(value):
        return missing("a_side_has_no_score")
    if not np.isfinite(draws).all() or draws.std() == 0.0:
        return Estimate(value=value, ci=(value, value), se=0.0, mde=0.0) if value == 0.0 else Estimate(value=value)
    low, high = (float(end) for end in percentile_interval(draws))
    se = float(draws.std(ddof=1))
    return Estimate(value=value, ci=(low, high), se=se, mde=MDE_FACTOR * se, significant=not low <= 0.0 <= high)
