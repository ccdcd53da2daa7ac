"""Controls: where an observed value falls among values of no change."""

import numpy as np
import pytest

from spinal.analysis.nulls import depth_null, percentile_of, self_null, split_shares
from spinal.analysis.uncertainty import draw_shares
from spinal.documents.editions import FORMER
from tests.support.fabricated import changed_pair, identical_pair


def test_percentiles_count_ties_half() -> None:
    assert percentile_of(2.0, [1.0, 2.0, 3.0, 4.0]) == 37.5
    assert percentile_of(9.0, [1.0, 2.0]) == 100.0
    assert percentile_of(9.0, [1.0]) is None
    assert percentile_of(None, [1.0]) is None
    assert percentile_of(1.0, []) is None


def test_halves_share_no_prompt_and_hold_all() -> None:
    first, second = split_shares(11, 0)
    assert ((first > 0) ^ (second > 0)).all()
    assert first.sum(axis=1) == pytest.approx(np.ones(64))
    assert second.sum(axis=1) == pytest.approx(np.ones(64))


def test_a_late_profile_is_extreme_among_its_shifts_and_a_flat_one_is_not() -> None:
    late = depth_null(np.array([0.0] * 8 + [1.0, 1.0]), (9, 10))
    assert late.observed == 1.0
    assert late.percentile == 100.0
    assert len(late.values) == 9
    assert depth_null(np.ones(10), (9, 10)).percentile == 50.0
    assert depth_null(np.zeros(10), (9, 10)).percentile is None


def test_a_checkpoint_against_itself_has_a_floor_of_nothing_and_a_large_change_lies_above_its_floor() -> None:
    floor = identical_pair().compare().nulls["self"]
    assert (floor.observed, set(floor.values), floor.percentile) == (0.0, {0.0}, 50.0)
    found = changed_pair(alpha_shift=2.0, transport_factor=0.2).compare().nulls["self"]
    assert (found.percentile, len(found.values)) == (100.0, 200)


def test_the_release_before_had_halves_for_a_floor() -> None:
    found = changed_pair().compare(edition=FORMER).nulls["self"]
    assert len(found.values) == 64
    assert "two random halves" in found.note


def test_the_floor_is_as_wide_as_what_chance_makes_of_no_change() -> None:
    """Candidates that differ from the reference on every prompt and not on average: a twentieth lies beyond."""
    generator = np.random.default_rng(2)
    beyond, sets, prompts = 0, 300, 64
    shares = draw_shares(prompts, 400, 0)
    for _ in range(sets):
        differences = generator.standard_normal(prompts)
        observed = float(differences.mean())
        percentile = self_null(shares @ differences, observed).percentile
        assert percentile is not None
        beyond += percentile >= 95.0
    # Nominal .05; three hundred sets scatter by .013, and a bootstrap of 64 prompts is a hundredth too short.
    assert 0.02 <= beyond / sets <= 0.10
