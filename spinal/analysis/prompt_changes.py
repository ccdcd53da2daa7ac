"""Prompt by prompt: which moved most, and which kinds were looked at at all."""

import numpy as np
import numpy.typing as npt

from spinal.analysis.damage.behaviour import scored
from spinal.analysis.damage.bounds import interval, standard_error
from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.damage.structure import per_prompt
from spinal.analysis.layers import MAIN_POSITIONS, UNMEASURED, Pair
from spinal.documents.base import Estimate, missing
from spinal.documents.comparison import Looked, PromptChange

Array = npt.NDArray[np.float64]
MOST = 32
"""Prompts in the table."""


def prompt_changes(pair: Pair) -> tuple[PromptChange, ...]:
    """The prompts that moved most, first, at most ``MOST``.

    How far one moved: the larger of |change of NLL| and gap at D, each in units of its watch limit; what was not
    measured counts 0, ties keep the order of the set, and a prompt that did not move is left out.
    """
    count = pair.reference.prompt_set.count
    gap = pair.evidence.function_gap[MAIN_POSITIONS][:, -1]
    nll, swap = np.full(count, np.nan), np.full(count, np.nan)
    both = scored(pair.reference_capture, pair.candidate_capture)
    nll[both.prompts] = both.change
    swap[swapped_prompts(pair)] = per_prompt(pair.evidence.block_swap)
    mine, theirs = pair.reference_capture.at(MAIN_POSITIONS), pair.candidate_capture.at(MAIN_POSITIONS)
    entropy = theirs.entropy[:, -1] - mine.entropy[:, -1]
    top = pair.evidence.top_changed
    moved = np.maximum(
        np.abs(np.nan_to_num(nll, nan=0.0)) / LIMITS["nll_change"].watch,
        np.nan_to_num(gap, nan=0.0) / LIMITS["gap"].watch,
    )
    order = [int(prompt) for prompt in np.argsort(-moved, kind="stable")[:MOST] if moved[prompt] > 0.0]
    return tuple(
        PromptChange(
            prompt=prompt + 1,
            category=_category(pair, prompt),
            gap=_known(gap[prompt]),
            nll_change=_known(nll[prompt]),
            entropy_change=_known(entropy[prompt]),
            top_changed=None if top is None else _known(top[prompt]),
            block_swap=_known(swap[prompt]),
        )
        for prompt in order
    )


def looked_at(pair: Pair) -> tuple[Looked, ...]:
    """Per category, in the order in which they first appear, how many prompts each measurement took: one row without a
    name where nothing tells prompts apart."""
    prompts = range(pair.reference.prompt_set.count)
    both = scored(pair.reference_capture, pair.candidate_capture)
    taken = {
        "scored": set(both.prompts.tolist()),
        "swapped": set() if pair.evidence.absent is not None else set(swapped_prompts(pair).tolist()),
        "accounted": {int(prompt) for account in pair.evidence.accounts for prompt in account.prompts},
        "continued": _continued(pair),
    }
    members: dict[str | None, list[int]] = {}
    for prompt in prompts:
        members.setdefault(_category(pair, prompt), []).append(prompt)
    return tuple(
        Looked(
            category=category,
            prompts=len(of),
            nll_change=_nll_change(both.change[np.isin(both.prompts, of)]),
            **{measurement: sum(prompt in some for prompt in of) for measurement, some in taken.items()},
        )
        for category, of in members.items()
    )


def _nll_change(change: Array) -> Estimate:
    """The mean of (n,) changes, as the damage panel takes it of all prompts."""
    if not change.size:
        return missing(UNMEASURED)
    return Estimate(value=float(change.mean()), ci=interval(change), se=standard_error(change))


def swapped_prompts(pair: Pair) -> npt.NDArray[np.int64]:
    """(Q,) the prompts that block swap took."""
    given = pair.evidence.swap_prompts
    return np.arange(pair.evidence.block_swap.shape[0], dtype=np.int64) if given is None else given


def _continued(pair: Pair) -> set[int]:
    sides = [capture.greedy_prompts for capture in (pair.reference_capture, pair.candidate_capture)]
    known = [set(side.tolist()) for side in sides if side is not None]
    return known[0] & known[1] if len(known) == 2 else set()


def _category(pair: Pair, prompt: int) -> str | None:
    categories = pair.candidate_capture.categories
    return categories[prompt] if categories else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
