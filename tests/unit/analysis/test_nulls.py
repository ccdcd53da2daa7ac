"""Controls: where an observed value falls among values of no change."""

import numpy as np
import pytest

from spinal.analysis.nulls import depth_null, percentile_of, split_shares
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


def test_no_change_lies_at_the_bottom_of_the_floor_and_a_large_one_above_it() -> None:
    floor = identical_pair().compare().nulls["self"]
    assert floor.observed == 0.0
    assert floor.percentile == 0.0
    assert min(floor.values) >= 0.0
    assert changed_pair(alpha_shift=2.0, transport_factor=0.2).compare().nulls["self"].percentile == 100.0
