"""Which signals make a candidate damaged, and what the default policy makes of it."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.documents.comparison import Comparison
from tests.support.fabricated import changed_pair


def assessed(*, hidden: float = 0.0, swap: float = 0.0, nll: float | None = 0.0, non_finite: int = 0) -> Comparison:
    """A comparison whose damage signals have the given values; ``nll`` None: nothing was scored."""
    pair = changed_pair()
    ones = np.ones((32, 11))
    evidence = replace(
        pair.evidence,
        hidden_change={"last": hidden * ones, "all": hidden * ones},
        block_swap=np.full((32, 10), swap),
    )
    scored = np.full(32, np.nan) if nll is None else pair.candidate_capture.nll + nll
    return replace(
        pair,
        evidence=evidence,
        candidate_capture=replace(pair.candidate_capture, nll=scored),
        candidate=pair.candidate.model_copy(update={"non_finite": non_finite}),
    ).compare()


@pytest.mark.parametrize(
    ("signals", "level", "outcome"),
    [
        ({}, "none", "pass"),
        ({"hidden": 0.2, "swap": 0.08, "nll": 0.2}, "none", "pass"),
        ({"nll": 0.5}, "watch", "warn"),
        ({"nll": 5.0}, "watch", "warn"),
        ({"hidden": 2.0, "swap": 0.5}, "watch", "warn"),
        ({"hidden": 2.0, "nll": 5.0}, "damaged", "fail"),
        ({"swap": 0.5, "nll": 5.0}, "damaged", "fail"),
        ({"nll": None}, "none", "inconclusive"),
        ({"hidden": 2.0, "nll": None}, "watch", "inconclusive"),
        ({"hidden": 2.0, "swap": 0.5, "nll": None}, "damaged", "fail"),
        ({"non_finite": 1}, "damaged", "fail"),
    ],
)
def test_damage_needs_two_signals_that_agree(signals: dict[str, float], level: str, outcome: str) -> None:
    result = assessed(**signals)  # type: ignore[arg-type]  # names of the keyword arguments
    assert result.damage.level == level
    assert result.verdict.outcome == outcome
    assert result.verdict.reasons


def test_a_signal_that_was_not_measured_says_so() -> None:
    signal = assessed(nll=None).damage.signals["nll_change"]
    assert signal.value is None
    assert signal.level is None
    assert signal.reason == "not_measured"


def test_nll_is_paired_over_the_prompts_scored_on_both_sides() -> None:
    pair = changed_pair()
    part = replace(pair.candidate_capture, nll=np.array([3.5, 9.0]), nll_prompts=np.array([4, 99]))
    assert replace(pair, candidate_capture=part).compare().damage.signals["nll_change"].value == 0.5


def test_damage_warns_against_reading_the_score_as_success() -> None:
    assert any("must not be read as success" in warning for warning in assessed(swap=0.5, nll=5.0).warnings)


def test_no_word_of_a_verdict_claims_alignment() -> None:
    for result in (assessed(), assessed(nll=5.0, swap=0.5), assessed(nll=None)):
        text = " ".join((*result.verdict.reasons, *result.warnings)).lower()
        assert "aligned" not in text
