"""Signals prompt by prompt: what the damage panel averages, kept so that members of a series can be paired."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.documents.comparison import Comparison
from spinal.documents.editions import FORMER
from spinal.documents.evidence import AccountEvidence, absent_evidence
from tests.support.fabricated import Pair, changed_pair

PROMPTS, BLOCKS = 40, 10
PLACES = ("embeddings", *(f"block {block}" for block in range(1, BLOCKS + 1)), "read-out")


def whole_pair() -> Pair:
    """A pair with something in every signal, none of it the same for two prompts."""
    pair, generator = changed_pair(prompts=PROMPTS), np.random.default_rng(3)
    ended = generator.random((2, 12)) < 0.5
    names = tuple("en" if prompt % 2 else None for prompt in range(PROMPTS))
    sides = [
        replace(
            side,
            nll=generator.normal(3.0, 0.2, PROMPTS),
            end_log_p=np.where(np.arange(PROMPTS) % 5 == 0, np.nan, generator.normal(-2.0, 3.0, PROMPTS)),
            end_ids=np.array([1]),
            greedy_prompts=np.array([30, 2, 5, 7, 8, 9, 11, 13, 17, 19, 23, 29]),
            greedy_ended=ended[which],
            greedy_length=np.full(12, 9),
            greedy_repetition=np.zeros(12),
            categories=names,
        )
        for which, side in enumerate((pair.reference_capture, pair.candidate_capture))
    ]
    sides[1].nll[4] = np.inf
    start = generator.normal(size=(8, 1))
    end = start + generator.normal(0.5, 0.3, size=(8, 1))
    path = np.linspace(0.0, 1.0, len(PLACES) + 1)
    forward = start + (end - start) * path
    forward[6] = np.nan
    account = AccountEvidence(
        "margin", PLACES, np.array([3, 1, 4, 15, 9, 2, 6, 5]), forward, forward[:, ::-1].copy(),
        np.zeros(len(PLACES), dtype=bool),
    )  # fmt: skip
    evidence = replace(pair.evidence, accounts=(account,))
    return replace(pair, reference_capture=sides[0], candidate_capture=sides[1], evidence=evidence)


@pytest.fixture(scope="module")
def found() -> Comparison:
    return whole_pair().compare()


@pytest.mark.parametrize("name", ["nll_change", "end_share_change", "end_log_p_change", "margin_change", "gap"])
def test_the_mean_over_prompts_is_the_value_of_the_panel(found: Comparison, name: str) -> None:
    signal, panel = found.by_prompt[name], found.damage.signals[name]
    # Sums of forty doubles.
    assert np.mean(signal.values) == pytest.approx(panel.value, abs=1e-12)
    assert len(signal.prompts) == (panel.n or len(signal.prompts))
    assert list(signal.prompts) == sorted(set(signal.prompts))
    assert signal.categories == tuple(None if prompt % 2 else "en" for prompt in signal.prompts)


def test_prompts_are_counted_from_one_and_those_without_a_value_are_left_out(found: Comparison) -> None:
    assert found.by_prompt["nll_change"].prompts == tuple(p for p in range(1, PROMPTS + 1) if p != 5)
    assert found.by_prompt["margin_change"].prompts == (2, 3, 4, 5, 6, 10, 16)
    assert 1 not in found.by_prompt["end_log_p_change"].prompts
    assert found.by_prompt["gap"].prompts == tuple(range(1, PROMPTS + 1))


def test_a_margin_is_the_change_between_the_two_whole_models() -> None:
    pair = whole_pair()
    account = pair.evidence.accounts[0]
    signal = pair.compare().by_prompt["margin_change"]
    change = dict(zip((account.prompts + 1).tolist(), account.forward[:, -1] - account.forward[:, 0], strict=True))
    assert signal.values == pytest.approx([change[prompt] for prompt in signal.prompts], abs=1e-12)


def test_what_no_prompt_has_is_left_out() -> None:
    assert set(changed_pair().compare().by_prompt) == {"nll_change", "gap"}
    pair = whole_pair()
    without = absent_evidence(pair.reference, pair.candidate, pair.profile, "checkpoint_not_at_hand")
    assert set(replace(pair, evidence=without).compare().by_prompt) == {
        "nll_change", "end_share_change", "end_log_p_change",
    }  # fmt: skip
    no_end = replace(pair.reference_capture, end_ids=np.array([], dtype=np.int64))
    assert "end_share_change" not in replace(pair, reference_capture=no_end).compare().by_prompt


def test_comparisons_that_the_release_before_asked_for_hold_what_it_would_have_made() -> None:
    assert whole_pair().compare(edition=FORMER).by_prompt == {}
