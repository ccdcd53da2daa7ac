"""The table of prompts that moved most, and the table of what was looked at."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.analysis.damage.limits import LIMITS
from spinal.analysis.prompt_changes import MOST
from spinal.documents.comparison import Looked
from spinal.documents.evidence import AccountEvidence, absent_evidence
from tests.support.fabricated import Pair, changed_pair, identical_pair

PROMPTS, BLOCKS = 40, 10


def pair_with(gap: np.ndarray, nll: np.ndarray) -> Pair:
    """40 prompts with these gaps at D (P,) and changes of NLL (P,), swapped at every other prompt."""
    pair = changed_pair(prompts=PROMPTS)
    gaps = np.zeros((PROMPTS, BLOCKS + 1))
    gaps[:, -1] = gap
    swap = np.arange(PROMPTS)[::2]
    evidence = replace(
        pair.evidence,
        function_gap={"last": np.full_like(gaps, 9.0), "all": gaps},
        block_swap=np.tile(swap[:, None] / 100.0, (1, BLOCKS)),
        block_swap_transport=np.zeros((swap.size, BLOCKS)),
        swap_prompts=swap,
        top_changed=np.arange(PROMPTS) / PROMPTS,
    )
    candidate = replace(pair.candidate_capture, nll=pair.reference_capture.nll + nll)
    return replace(pair, evidence=evidence, candidate_capture=candidate)


def test_the_prompts_that_moved_most_come_first_with_their_numbers() -> None:
    gap, nll = np.full(PROMPTS, 0.001), np.zeros(PROMPTS)
    gap[7], nll[7] = LIMITS["gap"].watch, -0.5 * LIMITS["nll_change"].watch
    nll[4] = -3.0 * LIMITS["nll_change"].watch  # for the better
    nll[20], gap[20] = 2.0 * LIMITS["nll_change"].watch, 0.5 * LIMITS["gap"].watch
    found = pair_with(gap, nll).compare().prompt_changes
    assert len(found) == MOST
    assert [change.prompt for change in found[:4]] == [5, 21, 8, 1]
    first = found[0]
    assert first.nll_change == pytest.approx(nll[4])
    assert (first.gap, first.top_changed, first.block_swap) == (0.001, 4 / PROMPTS, pytest.approx(0.04))
    assert found[2].block_swap is None, "it was not swapped"
    assert found[0].category is None


def test_prompts_that_did_not_move_are_not_listed() -> None:
    assert identical_pair().compare().prompt_changes == ()
    nll = np.zeros(PROMPTS)
    nll[3] = 0.2
    found = pair_with(np.zeros(PROMPTS), nll).compare().prompt_changes
    assert [change.prompt for change in found] == [4]


def test_without_evidence_the_captures_tell_the_order() -> None:
    nll = np.linspace(0.0, 1.0, PROMPTS)
    pair = pair_with(np.zeros(PROMPTS), nll)
    without = absent_evidence(pair.reference, pair.candidate, pair.profile, "checkpoint_not_at_hand")
    result = replace(pair, evidence=without).compare()
    assert [change.prompt for change in result.prompt_changes[:3]] == [40, 39, 38]
    assert result.prompt_changes[0].gap is None
    assert [(looked.scored, looked.swapped) for looked in result.looked_at] == [(PROMPTS, 0)]


def test_every_category_is_counted_by_measurement() -> None:
    pair = pair_with(np.zeros(PROMPTS), np.zeros(PROMPTS))
    names = ("en",) * 30 + ("ru",) * 8 + (None,) * 2
    scored = np.arange(32)
    sides = [
        replace(
            side,
            nll=side.nll[:32],
            nll_prompts=scored,
            categories=names,
            greedy_prompts=np.array([0, 1, 30, 39]),
            greedy_ended=np.ones(4, dtype=bool),
            greedy_length=np.full(4, 9),
            greedy_repetition=np.zeros(4),
        )
        for side in (pair.reference_capture, pair.candidate_capture)
    ]
    places = ("embeddings", *(f"block {block + 1}" for block in range(BLOCKS)), "read-out")
    path = np.zeros((3, len(places) + 1))
    account = AccountEvidence(
        read_out="kl", places=places, prompts=np.array([0, 31, 32]), forward=path, backward=path,
        identical=np.zeros(len(places), dtype=bool),
    )  # fmt: skip
    evidence = replace(pair.evidence, accounts=(account,))
    result = replace(pair, reference_capture=sides[0], candidate_capture=sides[1], evidence=evidence).compare()
    without = [each.model_copy(update={"nll_change": None}) for each in result.looked_at]
    assert without == [
        Looked(category="en", prompts=30, scored=30, swapped=15, accounted=1, continued=2),
        Looked(category="ru", prompts=8, scored=2, swapped=4, accounted=2, continued=1),
        Looked(category=None, prompts=2, scored=0, swapped=1, accounted=0, continued=1),
    ]
    assert any("'ru' (2 of 8)" in reason for reason in result.verdict.reasons)


def test_every_category_has_its_mean_change_with_an_interval_where_there_are_enough() -> None:
    change = np.linspace(0.0, 1.0, PROMPTS)
    pair = pair_with(np.zeros(PROMPTS), change)
    names = ("en",) * 30 + ("ru",) * 3 + ("de",) * (PROMPTS - 33)
    sides = [replace(side, categories=names) for side in (pair.reference_capture, pair.candidate_capture)]
    found = replace(pair, reference_capture=sides[0], candidate_capture=sides[1]).compare().looked_at
    by_name = {each.category: each.nll_change for each in found}
    english, russian = by_name["en"], by_name["ru"]
    assert english is not None
    assert russian is not None
    assert english.value == pytest.approx(change[:30].mean())
    assert english.ci is not None
    assert english.ci[0] < change[:30].mean() < english.ci[1]
    assert (russian.value, russian.ci) == (pytest.approx(change[30:33].mean()), None)
