"""Localization on profiles computed by hand."""

import math
from fractions import Fraction

import numpy as np
import pytest

from spinal.analysis.localization import localize, smallest_window, soft_threshold, terminal_window
from spinal.analysis.uncertainty import thresholded_interval


@pytest.mark.parametrize(
    ("blocks", "first"), [(30, 21), (10, 7), (24, 17), (1, 1), (3, 3), (20, 14), (32, 23), (40, 28), (90, 63)]
)
def test_the_terminal_window_starts_at_the_exact_ceiling(blocks: int, first: int) -> None:
    assert terminal_window(blocks, 0.7) == (first, blocks)


def test_the_terminal_window_agrees_with_rational_arithmetic_at_every_depth() -> None:
    for blocks in range(1, 200):
        for hundredths in range(1, 100):
            expected = -(-hundredths * blocks // 100)
            assert terminal_window(blocks, hundredths / 100)[0] == expected


def test_a_single_block_holds_everything() -> None:
    place = localize(np.array([0.0, 0.0, 3.0, 0.0]), None, (3, 4))
    assert place.center == 0.75
    assert place.spread == 0.0
    assert place.window50 == place.window80 == (3, 3)
    assert place.gini == 0.75
    assert place.effective_blocks == 1.0
    assert place.terminal_share == 1.0
    assert place.terminal_share_null == 0.5
    assert place.peak == 3
    assert place.ci == {}


def test_a_flat_profile_equals_its_null() -> None:
    place = localize(np.full(10, 0.2), None, (7, 10))
    assert place.center == pytest.approx(0.55)
    # Variance of 1..10 over 10: (100 - 1) / 12 / 100.
    assert place.spread == pytest.approx(math.sqrt(99 / 1200))
    assert place.gini == pytest.approx(0.0, abs=1e-15)
    assert place.effective_blocks == pytest.approx(10.0)
    assert place.terminal_share == pytest.approx(place.terminal_share_null)
    assert place.window50 == (1, 5)
    assert place.window80 == (1, 8)


def test_a_profile_computed_by_hand() -> None:
    # q = .1 .2 .4 .3 at x = .25 .5 .75 1
    place = localize(np.array([1.0, 2.0, 4.0, 3.0]), None, (3, 4))
    assert place.center == pytest.approx(0.725)
    assert place.spread == pytest.approx(math.sqrt(0.1 * 0.475**2 + 0.2 * 0.225**2 + 0.4 * 0.025**2 + 0.3 * 0.275**2))
    assert place.window50 == (3, 4)
    assert place.window80 == (2, 4)
    assert place.terminal_share == pytest.approx(0.7)
    # Gini of 1 2 3 4: 2 (1 + 4 + 9 + 16) / (4 * 10) - 5 / 4
    assert place.gini == pytest.approx(0.25)
    assert place.peak == 3


def test_ties_go_to_the_larger_mass_then_to_the_earlier_run() -> None:
    assert smallest_window(np.array([3.0, 3.0, 0.0, 3.0, 3.1]), Fraction(2, 5)) == (4, 5)
    assert smallest_window(np.array([1.0, 1.0, 0.0, 1.0, 1.0]), Fraction(1, 2)) == (1, 2)
    assert smallest_window(np.array([0.1] * 10), Fraction(4, 5)) == (1, 8)


def test_nothing_changed_has_no_place_and_says_so() -> None:
    for place in (
        localize(np.zeros(5), None, (4, 5)),
        localize(np.ones(5), None, (4, 5), absent="no_detectable_change"),
    ):
        assert place.reason == "no_detectable_change"
        assert place.center is place.window50 is place.gini is place.peak is place.terminal_share is None
        assert place.terminal_share_null == 0.4


@pytest.mark.parametrize("profile", [[-1.0, 2.0], [np.nan, 1.0], [np.inf, 1.0], []])
def test_impossible_profiles_are_refused(profile: list[float]) -> None:
    with pytest.raises(ValueError, match="nonnegative"):
        localize(np.array(profile, dtype=np.float64), None, (1, 2))


def test_intervals_hold_the_value_and_the_peak_has_support() -> None:
    generator = np.random.default_rng(0)
    truth = np.array([1.0, 1.0, 2.0, 8.0])
    place = localize(truth, truth * np.exp(0.1 * generator.standard_normal((500, 4))), (3, 4))
    for name in ("center", "spread", "gini", "effective_blocks", "terminal_share"):
        low, high = place.ci[name]
        assert low < getattr(place, name) < high
    assert place.peak_support == 1.0


def test_soft_thresholding_takes_one_error_off_either_sign() -> None:
    found = soft_threshold(np.array([0.5, -0.5, 0.1, np.nan]), np.array([0.2, 0.2, 0.2, 0.2]))
    assert found == pytest.approx([0.3, 0.3, 0.0, 0.0])


def test_the_interval_of_a_thresholded_place_reaches_to_the_place_without_the_threshold() -> None:
    generator = np.random.default_rng(4)
    noise = 0.01 * generator.standard_normal((400, 1))
    drawn = 0.5 + noise - noise.mean()
    low, high = thresholded_interval(np.array([0.5]), np.array([0.6]), drawn, 0.0, 0.61)
    se = float(drawn.std(ddof=1))
    assert (low[0], high[0]) == (pytest.approx(0.5 - 1.96 * se), pytest.approx(min(0.6 + 1.96 * se, 0.61)))
    # Draws that lie .03 below the value tell of a truth as far above it.
    low, high = thresholded_interval(np.array([0.5]), np.array([0.5]), drawn - 0.03, 0.0, 1.0)
    assert (low[0], high[0]) == (pytest.approx(0.5 - 1.96 * se), pytest.approx(0.53 + 1.96 * se))
    profile, plain = np.array([0.0, 1.0, 0.2, 0.0]), np.array([0.3, 1.3, 0.5, 0.3])
    replicates = np.maximum(profile + 0.05 * generator.standard_normal((400, 4)), 0.0)
    place, apart = (localize(profile, replicates, (3, 4), clipped=True, plain=known) for known in (plain, None))
    truth = localize(plain, None, (3, 4))
    for member in ("center", "terminal_share"):
        without = getattr(truth, member)
        assert place.ci[member][0] <= without <= place.ci[member][1]
        assert not apart.ci[member][0] <= without <= apart.ci[member][1]
        assert place.ci[member][0] <= getattr(place, member) <= place.ci[member][1]
