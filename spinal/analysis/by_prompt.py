"""Signals of the damage panel before they are averaged: what members of a series are paired over."""

import numpy as np
import numpy.typing as npt

from spinal.analysis.accounts import finite, parts
from spinal.analysis.damage.behaviour import end_log_p_changes, ending_changes, scored
from spinal.analysis.layers import MAIN_POSITIONS, Pair
from spinal.documents.comparison import PromptSignal

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
SINCE = 5
"""Since which edition comparisons keep them: those that the release before asked for hold what it would have made."""


def by_prompt(pair: Pair) -> dict[str, PromptSignal]:
    """Candidate minus reference for every prompt that has a value, by signal; a signal that no prompt has is left out.

    ``nll_change`` (nats a token), ``end_log_p_change`` (nats), ``end_share_change`` (1 where only the candidate's
    greedy answer ends, -1 where only the reference's does), ``margin_change`` (nats: each prompt's parts of the account
    of the margin, added up) and ``gap`` (radians, node D, positions ``all``). The mean over prompts is the value of the
    damage panel.
    """
    if pair.edition.since < SINCE:
        return {}
    both = scored(pair.reference_capture, pair.candidate_capture)
    found = {
        "nll_change": (both.prompts, both.change),
        "end_share_change": ending_changes(pair.reference_capture, pair.candidate_capture),
        "end_log_p_change": end_log_p_changes(both, pair.reference_capture, pair.candidate_capture),
        "margin_change": _margins(pair),
        "gap": _gaps(pair),
    }
    return {name: _signal(pair, *values) for name, values in found.items() if values[0].size}


def _margins(pair: Pair) -> tuple[IntArray, Array]:
    account = next((of for of in pair.evidence.accounts if of.read_out == "margin" and of.absent is None), None)
    if account is None:
        return np.empty(0, dtype=np.int64), np.empty(0)
    used, _ = finite(account)
    return used.prompts, parts(used).sum(axis=1)


def _gaps(pair: Pair) -> tuple[IntArray, Array]:
    gap = pair.evidence.function_gap[MAIN_POSITIONS][:, -1]
    known = np.flatnonzero(np.isfinite(gap))
    return known, gap[known]


def _signal(pair: Pair, prompts: IntArray, values: Array) -> PromptSignal:
    categories = pair.candidate_capture.categories
    order = np.argsort(prompts, kind="stable")
    prompts, values = prompts[order], values[order]
    return PromptSignal(
        prompts=tuple(int(prompt) + 1 for prompt in prompts),
        values=tuple(float(value) for value in values),
        categories=tuple(categories[prompt] for prompt in prompts) if categories else (),
    )
