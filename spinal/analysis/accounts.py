"""What carries a change: read-outs of stitched models, place by place (``docs/method.md`` ("What carries the change")).

B bootstrap draws, P prompts of a comparison, Q of them in an account, M places, D blocks. Everything is in nats,
candidate minus reference.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from spinal.analysis.localization import localize
from spinal.analysis.uncertainty import MDE_FACTOR, mean_estimates, percentile_interval, shares_of
from spinal.documents.account import (
    CANCELLING,
    FRAME_CHANGED,
    NOT_SIGNIFICANT,
    WITHIN_ROUNDING,
    Account,
    PlacePart,
    ReadOut,
)
from spinal.documents.base import Estimate, missing
from spinal.documents.evidence import AccountEvidence
from spinal.documents.localization import NO_CHANGE, Localization

Array = npt.NDArray[np.float64]
NEVER_NEGATIVE = ("kl",)
"""Read-outs that any change raises: an interval that leaves out 0 says nothing of them, only their floor does."""
NO_PROMPTS = "no_prompts"
OVERFLOWED = "not_finite"
ONE_PROMPT = "one_prompt"
"""A total over one prompt has no interval, so nothing tells it from 0."""
BLOCKS_NOT_SIGNIFICANT = "blocks_not_significant"
"""The total can be told from 0, the blocks' own sum cannot."""
CANCELLING_FROM = 2.0
"""Parts cancel where their sizes add up to more than this many times the size of their sum."""
BLOCK = "block "


def account(
    evidence: AccountEvidence,
    shares: Array,
    terminal: tuple[int, int],
    *,
    floor: float | None = None,
    frame_changed: bool = False,
) -> Account:
    """The account of one read-out, prompts on which a stitched model overflowed left out and counted.

    ``shares`` (B, P) are the draws over all prompts of the comparison, so that what else is built from them stays
    paired; ``terminal`` is the first and last block of T. ``floor`` (nats) bounds what rounding makes of the total.
    ``frame_changed`` says that the two sides write their residuals in different bases: one side's residual then means
    nothing to the other's blocks, and no part is given.
    """
    used, lost = finite(evidence)
    remarks = evidence.remarks
    if lost:
        of = lost + used.prompts.size
        remarks += (f"{lost} of {of} prompts are left out of this account: a stitched model overflows on them",)
    absent = evidence.absent or (None if used.prompts.size else OVERFLOWED if lost else NO_PROMPTS)
    if absent is not None:
        return _without_parts(evidence, absent, floor, remarks)
    phi = parts(used)
    drawn = shares_of(shares, used.prompts)
    means, draws = phi.mean(axis=0), drawn @ phi
    several = used.prompts.size > 1
    total = sum_estimate(means, draws if several else None)
    reason = _why_no_shares(total, means, evidence.read_out, floor, frame_changed=frame_changed)
    # A total that is never negative is told from rounding, not from 0.
    significant = abs(_known(total)) > (floor or 0.0) if evidence.read_out in NEVER_NEGATIVE else beyond_zero(total)
    of_blocks = np.array([_block(place) is not None for place in evidence.places])
    carried = (means[of_blocks], draws[:, of_blocks] if several else None, terminal, reason)
    return Account(
        read_out=cast(ReadOut, evidence.read_out),
        prompts=used.prompts.size,
        dropped=evidence.dropped,
        total=total.model_copy(update={"significant": significant and reason != WITHIN_ROUNDING}),
        floor=floor,
        places=_places(used, phi, drawn, reason),
        localization=_localization(*carried, sign=float(np.sign(means.sum()))),
        blocks_terminal_share=_blocks_terminal_share(*carried),
        cancelling=_opposite_pair(means, evidence.places) if reason == CANCELLING else None,
        reason=reason,
        remarks=remarks,
    )


def parts(evidence: AccountEvidence) -> Array:
    """(Q, M) phi_k = 1/2 [(F_k - F_{k-1}) + (B_k - B_{k+1})], exactly 0 at identical places. They add up to
    1/2 [(F_M - F_0) + (B_1 - B_{M+1})], the change of the read-out, on every prompt."""
    forward, backward = _both_paths(evidence)
    return (forward + backward) / 2


def blocks_of(places: Sequence[str]) -> list[int]:
    """Numbers of the blocks among places, in their order."""
    return [block for block in map(_block, places) if block is not None]


def finite(evidence: AccountEvidence) -> tuple[AccountEvidence, int]:
    """The evidence over the prompts on which every stitched model is finite, and how many are not: parts add up to the
    total only where all of them are known."""
    if evidence.absent is not None or not evidence.prompts.size:
        return evidence, 0
    known = np.isfinite(evidence.forward).all(axis=1) & np.isfinite(evidence.backward).all(axis=1)
    kept = replace(
        evidence,
        prompts=evidence.prompts[known],
        forward=evidence.forward[known],
        backward=evidence.backward[known],
    )
    return kept, int(np.count_nonzero(~known))


def _both_paths(evidence: AccountEvidence) -> tuple[Array, Array]:
    """(Q, M) what each place adds on the forward and on the backward path."""
    changed = ~evidence.identical
    forward = np.where(changed, np.diff(evidence.forward, axis=1), 0.0)
    return forward, np.where(changed, -np.diff(evidence.backward, axis=1), 0.0)


def _known(estimate: Estimate) -> float:
    return 0.0 if estimate.value is None else estimate.value


def beyond_zero(estimate: Estimate) -> bool | None:
    return None if estimate.ci is None else not estimate.ci[0] <= 0.0 <= estimate.ci[1]


def sum_estimate(means: Array, draws: Array | None) -> Estimate:
    """Sum over places of ``means`` (M,), with the interval of the same sum over ``draws`` (B, M)."""
    value = float(means.sum())
    return Estimate(value=value) if draws is None else _estimate(value, draws.sum(axis=1))


def _estimate(value: float, draws: Array) -> Estimate:
    """A value with the percentile interval of its draws (B,), those without a value left out."""
    low, high = (float(end) for end in percentile_interval(draws))
    se = float(np.nanstd(draws, ddof=1))
    # Rounding of the summation order may leave what never varies outside its own interval by an ulp.
    exact = se <= 1e-12 * abs(value)
    ends = (min(low, value), max(high, value)) if exact else (low, high)
    return Estimate(value=value, ci=ends, se=se, mde=MDE_FACTOR * se)


def _why_no_shares(
    total: Estimate, means: Array, read_out: str, floor: float | None, *, frame_changed: bool
) -> str | None:
    """Why a total over ``means`` (M,) gives no shares; None where it does."""
    size = abs(_known(total))
    if not means.any():
        return NO_CHANGE
    if floor is not None and size < floor:
        return WITHIN_ROUNDING
    if frame_changed:
        return FRAME_CHANGED
    if read_out not in NEVER_NEGATIVE and total.ci is None:
        return ONE_PROMPT
    if read_out not in NEVER_NEGATIVE and not beyond_zero(total):
        return NOT_SIGNIFICANT
    return CANCELLING if _cancel(means) else None


def _cancel(means: Array) -> bool:
    return bool(np.abs(means).sum() > CANCELLING_FROM * abs(means.sum()))


def _opposite_pair(means: Array, places: tuple[str, ...]) -> tuple[str, str]:
    """The places of the largest and of the smallest part, in their order in the model."""
    first, second = sorted((int(np.argmax(means)), int(np.argmin(means))))
    return places[first], places[second]


def _places(evidence: AccountEvidence, phi: Array, drawn: Array, reason: str | None) -> tuple[PlacePart, ...]:
    forward, backward = (path.mean(axis=0) for path in _both_paths(evidence))
    if reason == FRAME_CHANGED:
        estimates = [missing(reason)] * phi.shape[1]
    else:
        estimates = mean_estimates(phi, drawn, reasons=[OVERFLOWED] * phi.shape[1], test=True)
    means, draws = phi.mean(axis=0), drawn @ phi
    return tuple(
        PlacePart(
            place=place,
            block=_block(place),
            identical=bool(evidence.identical[k]),
            phi=estimates[k],
            interaction=float(abs(forward[k] - backward[k]) / 2),
            share=missing(reason) if reason else _share(means, draws, [k], several=phi.shape[0] > 1),
        )
        for k, place in enumerate(evidence.places)
    )


def _block(place: str) -> int | None:
    return int(place.removeprefix(BLOCK)) if place.startswith(BLOCK) else None


def _share(means: Array, draws: Array, inside: list[int] | slice, *, several: bool) -> Estimate:
    """What some of the parts ``means`` (M,) hold of their sum, both resampled jointly in ``draws`` (B, M)."""
    value = float(means[inside].sum() / means.sum())
    if not several:
        return Estimate(value=value)
    sums = draws.sum(axis=1)
    shares = np.where(sums != 0.0, draws[:, inside].sum(axis=1) / np.where(sums != 0.0, sums, 1.0), np.nan)
    return _estimate(value, shares)


def _localization(
    means: Array, draws: Array | None, terminal: tuple[int, int], reason: str | None, *, sign: float
) -> Localization | None:
    """Where what goes the total's way concentrates among the blocks."""
    if not means.size:
        return None
    profile = np.maximum(sign * means, 0.0)
    replicates = None if draws is None else np.maximum(sign * draws, 0.0)
    return localize(profile, replicates, terminal, absent=reason, clipped=True)


def _blocks_terminal_share(
    means: Array, draws: Array | None, terminal: tuple[int, int], reason: str | None
) -> Estimate:
    """What T holds of the blocks' own sum: parts of either sign count, so that a flat account has |T| / D. It has its
    own tests: the blocks' sum may be nothing, or cancel, where the total does not."""
    if reason is None and not means.any():
        reason = NO_CHANGE
    elif reason is None and draws is not None and not beyond_zero(sum_estimate(means, draws)):
        reason = BLOCKS_NOT_SIGNIFICANT
    elif reason is None and _cancel(means):
        reason = CANCELLING
    if reason is not None:
        return missing(reason)
    inside = slice(terminal[0] - 1, terminal[1])
    return _share(means, means[None] if draws is None else draws, inside, several=draws is not None)


def _without_parts(evidence: AccountEvidence, reason: str, floor: float | None, remarks: tuple[str, ...]) -> Account:
    """An account of nothing: why, at every place that is known."""
    return Account(
        read_out=cast(ReadOut, evidence.read_out),
        prompts=0,
        dropped=evidence.dropped,
        total=missing(reason),
        floor=floor,
        places=tuple(
            PlacePart(
                place=place,
                block=_block(place),
                identical=bool(same),
                phi=missing(reason),
                interaction=0.0,
                share=missing(reason),
            )
            for place, same in zip(evidence.places, evidence.identical, strict=False)
        ),
        localization=None,
        blocks_terminal_share=missing(reason),
        reason=reason,
        remarks=remarks,
    )
