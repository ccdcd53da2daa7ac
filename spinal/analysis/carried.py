"""Every account of a comparison: the candidate's, the control's and that of matched noise, and what the control's
leaves of the candidate's (``docs/method.md`` ("What carries the change"))."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from spinal.analysis.accounts import (
    NO_PROMPTS,
    OVERFLOWED,
    account,
    beyond_zero,
    finite,
    parts,
    sum_estimate,
)
from spinal.analysis.floors import FLOORED, pair_floor
from spinal.analysis.layers import Pair
from spinal.analysis.uncertainty import mean_estimates, shares_of
from spinal.documents.account import Account, AccountContrast, ReadOut
from spinal.documents.comparison import Frame
from spinal.documents.evidence import AccountEvidence

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Carried:
    """Accounts and contrasts, by read-out."""

    accounts: dict[str, Account]
    control: dict[str, Account]
    noise: dict[str, Account]
    contrasts: dict[str, AccountContrast]


def what_carries(pair: Pair, control: Sequence[AccountEvidence], frame: Frame | None) -> Carried:
    """All accounts of a pair. A changed ``frame`` is the candidate's: noise keeps the basis of the reference, and of
    a control's nothing is known."""
    mine = pair.evidence.accounts
    changed = frame is not None and frame.changed
    return Carried(
        accounts={of.read_out: _account(of, pair, frame_changed=changed) for of in mine},
        control={of.read_out: _account(of, pair, frame_changed=False) for of in control},
        noise={
            of.read_out: _account(of, pair, frame_changed=False) for of in _mean_draws(pair.evidence.noise_accounts)
        },
        contrasts={} if changed else _contrasts(mine, control, pair.shares),
    )


def _account(evidence: AccountEvidence, pair: Pair, *, frame_changed: bool) -> Account:
    floor = pair_floor(pair, evidence.read_out) if evidence.read_out in FLOORED else None
    return account(evidence, pair.shares, pair.terminal, floor=floor, frame_changed=frame_changed)


def _mean_draws(draws: Sequence[AccountEvidence]) -> list[AccountEvidence]:
    """Draws of matched noise, averaged for each read-out."""
    read_outs = dict.fromkeys(draw.read_out for draw in draws)
    return [mean_of_draws([draw for draw in draws if draw.read_out == read_out]) for read_out in read_outs]


def _contrasts(
    mine: Sequence[AccountEvidence], theirs: Sequence[AccountEvidence], shares: Array
) -> dict[str, AccountContrast]:
    """Candidate minus control for each read-out that both have an account of."""
    control = {of.read_out: of for of in theirs}
    found = {of.read_out: contrast(of, control[of.read_out], shares) for of in mine if of.read_out in control}
    return {read_out: one for read_out, one in found.items() if one is not None}


def contrast(candidate: AccountEvidence, control: AccountEvidence, shares: Array) -> AccountContrast | None:
    """Candidate minus control, paired over the prompts that both accounts hold; None where they share none.

    A place that only one side has, since its configuration differs from the reference's, carries nothing of the other.
    """
    if candidate.absent is not None or control.absent is not None:
        return None
    sides = [finite(side)[0] for side in (candidate, control)]
    common, mine, theirs = np.intersect1d(sides[0].prompts, sides[1].prompts, return_indices=True)
    if not common.size:
        return None
    places = tuple(dict.fromkeys((*candidate.places, *control.places)))
    phi = _aligned(sides[0], places)[mine] - _aligned(sides[1], places)[theirs]
    drawn = shares_of(shares, common)
    total = sum_estimate(phi.mean(axis=0), drawn @ phi if common.size > 1 else None)
    estimates = mean_estimates(phi, drawn, reasons=[NO_PROMPTS] * len(places), test=True)
    return AccountContrast(
        read_out=cast(ReadOut, candidate.read_out),
        prompts=common.size,
        total=total.model_copy(update={"significant": beyond_zero(total)}),
        places=dict(zip(places, estimates, strict=True)),
    )


def mean_of_draws(draws: Sequence[AccountEvidence]) -> AccountEvidence:
    """Evidence of the mean account of several draws of matched noise of one read-out and the same places, paired over
    the prompts that all of them hold. Draws without an account, or that overflowed on every prompt, are left out."""
    usable = [finite(draw)[0] for draw in draws if draw.absent is None]
    held = [draw for draw in usable if draw.prompts.size]
    if not held:
        return replace(draws[0], absent=next((draw.absent for draw in draws if draw.absent), OVERFLOWED))
    common = held[0].prompts
    for draw in held[1:]:
        common = np.intersect1d(common, draw.prompts)
    rows = [np.intersect1d(draw.prompts, common, return_indices=True)[1] for draw in held]
    lost = len(draws) - len(held)
    said = f"mean of {len(held)} draws: its interval covers prompts, not other draws"
    return AccountEvidence(
        read_out=held[0].read_out,
        places=held[0].places,
        prompts=np.unique(common),
        forward=np.mean([draw.forward[row] for draw, row in zip(held, rows, strict=True)], axis=0),
        backward=np.mean([draw.backward[row] for draw, row in zip(held, rows, strict=True)], axis=0),
        identical=np.all([draw.identical for draw in held], axis=0),
        dropped=held[0].dropped,
        remarks=(said + (f"; {lost} more overflowed or gave no account" if lost else ""),),
    )


def _aligned(evidence: AccountEvidence, places: tuple[str, ...]) -> Array:
    """(Q, len(places)) parts, 0 at places that the evidence does not have."""
    phi = parts(evidence)
    columns = dict(zip(evidence.places, phi.T, strict=True))
    nothing = np.zeros(phi.shape[0])
    return np.stack([columns.get(place, nothing) for place in places], axis=1)
