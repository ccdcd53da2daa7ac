"""Detectors against closed forms and brute force."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from spinal.analysis.series.change_points import MINIMUM, break_tails, change_points
from spinal.analysis.series.cusum import SLACK, crossing_probability, cusum, cusum_limit, scores
from spinal.analysis.series.detectors import Falling, Moving, detect
from spinal.analysis.series.drawdown import Fall, drawdown
from spinal.analysis.series.noise import noise
from spinal.analysis.series.pairing import aligned, ends, squared_error
from spinal.analysis.series.thresholds import HEIGHTS, LENGTHS, threshold

PROMPTS = 60


def flat(members: int, seed: int = 0, prompts: int = PROMPTS, spread: float = 0.2) -> np.ndarray:
    """(n, P) prompts that differ by far more than members do."""
    generator = np.random.default_rng(seed)
    return 3.0 * generator.standard_normal(prompts) + spread * generator.standard_normal((members, prompts))


def test_noise_is_that_of_one_member_whatever_prompts_differ_by() -> None:
    # Each member's mean scatters by .2 / sqrt(60); of 39 errors the median knows it to a few percent.
    assert noise(flat(40)) == pytest.approx(0.2 / math.sqrt(PROMPTS), rel=0.05)


def test_noise_is_half_the_median_squared_error_of_consecutive_differences() -> None:
    values = flat(6)
    values[2] = np.nan
    rows = [0, 1, 3, 4, 5]
    squared = [np.var(values[b] - values[a], ddof=1) / PROMPTS for a, b in pairwise(rows)]
    assert noise(values) == pytest.approx(math.sqrt(np.median(squared) / 2.0), rel=1e-12)


def test_members_that_are_all_the_same_have_the_noise_of_rounding() -> None:
    assert noise(np.zeros((5, PROMPTS))) == 1e-6
    assert math.isnan(noise(np.full((5, PROMPTS), np.nan)))


def test_answers_that_all_stay_the_same_are_not_known_without_error() -> None:
    assert squared_error(np.zeros(30), counted=True) == pytest.approx(1.0 / 32.0**2)
    turned = np.array([-1.0, 1.0, 1.0, *[0.0] * 27])
    assert squared_error(turned, counted=True) == pytest.approx((4.0 - 1.0 / 32.0) / 32.0**2)
    assert ends(turned, counted=True)[0] < turned.mean() < ends(turned, counted=True)[1]


def test_the_threshold_is_that_of_the_table_and_grows_with_members_and_signals() -> None:
    assert [threshold(n, 1) for n in LENGTHS] == pytest.approx(HEIGHTS)
    assert threshold(17, 1) == pytest.approx(2.6 + 0.6 * math.log(1.7) / math.log(3.0))
    assert threshold(900, 1) == pytest.approx(4.5)
    assert threshold(10, 8) > threshold(10, 4) > threshold(10, 1)
    with pytest.raises(ValueError, match="five members"):
        threshold(4, 1)


@pytest.mark.parametrize(("n", "tests"), [(5, 1), (10, 6), (30, 12)])
def test_a_threshold_keeps_its_share_of_false_alarms(n: int, tests: int) -> None:
    """Normal members, sigma known: two consecutive beyond it in 1% / tests of series, to the error of 200,000."""
    generator, hits, count = np.random.default_rng(n), 0, 200_000
    for _ in range(10):
        members = generator.standard_normal((count // 10, n))
        far = (np.maximum.accumulate(members, axis=1) - members) / math.sqrt(2.0) > threshold(n, tests)
        hits += int((far[:, 1:] & far[:, :-1]).any(axis=1).sum())
    expected = 0.01 / tests
    # The table has two digits, so that it is 1% to a fifth; the correction is on the safe side.
    assert 0.5 * expected < hits / count < 1.25 * expected


def test_a_fall_names_the_last_good_member_the_first_bad_one_and_when_it_is_known() -> None:
    values = flat(10)
    values[2] -= 0.1
    values[6:] += 0.6
    found = drawdown(values, 2.6, 0.15)
    # Members 3 to 5 are beyond noise, for member 2 was better; only the least effect keeps them from counting.
    assert (found.distance[3:6] > 2.6).all()
    assert found.beyond.tolist() == [False] * 6 + [True] * 4
    assert found.falls == (Fall(known=7, onset=2, worse_from=6, noticed=3),)
    assert found.fall[7] == pytest.approx((values[7] - values[2]).mean())
    assert found.low[7] < found.fall[7] < found.high[7]
    assert found.best.tolist()[2:] == [2] * 8
    values[2] += 0.1
    assert drawdown(values, 2.6, 0.15).falls[0].noticed == 6


def test_a_member_that_lacks_the_signal_is_stepped_over() -> None:
    values = flat(9)
    values[5:] += 0.6
    values[6] = np.nan
    values[1, :-3] = np.nan
    found = drawdown(values, 2.6, 0.15)
    assert [(fall.known, fall.worse_from) for fall in found.falls] == [(7, 5)]
    assert np.isnan(found.fall[[1, 6]]).all()
    assert found.best[[1, 6]].tolist() == [-1, -1]


def test_only_prompts_that_both_have_are_compared() -> None:
    """A member that lost the prompts on which all members are bad is not better for that."""
    values = flat(6, spread=0.01)
    values[:, :20] += 5.0
    values[3, :20] = np.nan
    found = drawdown(values, 2.6, 0.1)
    assert np.nanmax(np.abs(found.fall)) < 0.05


def test_a_margin_has_to_lose_a_tenth_of_its_best() -> None:
    grown = -np.linspace(0.2, 4.0, 8)[:, None] + 0.01 * flat(8, spread=1.0) / 3.0
    fallen = np.concatenate([grown, grown[-1:] + np.array([[0.3], [0.3]]) + 0.001 * flat(2, 1)])
    assert drawdown(fallen, 2.6, 0.05, of_best=0.1).falls == ()
    assert len(drawdown(fallen, 2.6, 0.05).falls) == 1
    assert drawdown(fallen, 2.6, 0.05, of_best=0.1).least[-1] == pytest.approx(0.4, abs=0.01)


def brute_force_tails(values: np.ndarray) -> list[float]:
    """P(F) of two lines against one, by least squares on the whole design."""
    n = values.size
    x = np.arange(n, dtype=float)
    whole = np.stack([np.ones(n), x], axis=1)

    def residual(design: np.ndarray) -> float:
        fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
        return float(((values - fitted) ** 2).sum())

    tails = []
    for cut in range(MINIMUM, n - MINIMUM + 1):
        after = (x >= cut)[:, None]
        two = residual(np.concatenate([whole * ~after, whole * after], axis=1))
        statistic = (residual(whole) - two) / 2.0 / (two / (n - 4))
        tails.append(float(stats.f.sf(statistic, 2, n - 4)))
    return tails


@pytest.mark.parametrize("n", [8, 13, 40])
def test_two_lines_are_tested_against_one_as_least_squares_does(n: int) -> None:
    values = np.random.default_rng(n).standard_normal(n) + 0.3 * np.arange(n)
    values[n // 2 :] += 2.0
    # Running sums of n doubles against a solver.
    assert break_tails(values) == pytest.approx(brute_force_tails(values), rel=1e-6)


def test_a_kink_and_a_jump_are_found_where_they_are_with_their_slopes() -> None:
    line = np.where(np.arange(24) < 8, 0.01 * np.arange(24), 0.07 + 0.05 * (np.arange(24) - 7))
    line[16:] += 1.0
    line += 0.001 * np.random.default_rng(0).standard_normal(24)
    found = change_points(line, 0.01)
    assert [one.at for one in found] == [7, 15]
    assert [one.before for one in found] == pytest.approx([0.01, 0.05], abs=0.001)
    assert [one.after for one in found] == pytest.approx([0.05, 0.05], abs=0.001)
    # Over the eight members after: by the slope; then by the jump.
    assert found[0].change == pytest.approx(0.04 * 8, abs=0.02)
    assert found[1].change == pytest.approx(1.0, abs=0.01)
    assert all(0.0 < one.low < abs(one.change) for one in found)
    assert all(one.at + MINIMUM <= one.known <= one.at + MINIMUM + 3 for one in found)


def test_lines_of_fewer_than_four_members_are_never_fitted() -> None:
    step = np.array([0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0])
    assert change_points(step, 0.5) == ()
    longer = np.concatenate([step, [9.0]])
    assert all(MINIMUM - 1 <= one.at <= longer.size - 1 - MINIMUM for one in change_points(longer, 0.5))


def test_change_points_step_over_members_without_a_value() -> None:
    values = np.array([0.0, 0.01, 0.0, 0.01, 1.0, 1.01, 1.0, 1.01, 1.0])
    holes = np.insert(values, [2, 5], np.nan)
    (whole,), (found,) = change_points(values, 0.05), change_points(holes, 0.05)
    assert (whole.at, found.at) == (3, 4)
    assert found.change == whole.change


@pytest.mark.parametrize("n", [8, 20])
def test_flat_series_have_a_change_point_at_most_as_often_as_asked(n: int) -> None:
    generator = np.random.default_rng(100 + n)
    hits = sum(bool(change_points(generator.standard_normal(n), 0.05)) for _ in range(4000))
    # Bonferroni: at most 5%, and exactly that where there is one place; 4,000 tell it to .0103 (three standard errors).
    assert hits / 4000 < 0.05 + 0.0103


def test_scores_of_a_cusum_are_the_students_of_what_came_before() -> None:
    values = np.random.default_rng(1).standard_normal(12)
    found = scores(values)
    assert np.isnan(found[:2]).all()
    for i in range(2, 12):
        before = values[:i]
        t = (values[i] - before.mean()) / (before.std(ddof=1) * math.sqrt(1.0 + 1.0 / i))
        assert found[i] == pytest.approx(stats.norm.ppf(stats.t.cdf(t, i - 1)), abs=1e-9)


def test_scores_do_not_depend_on_level_or_scale_and_never_overflow() -> None:
    values = np.random.default_rng(2).standard_normal(12)
    assert scores(5.0 + 3.0 * values)[2:] == pytest.approx(scores(values)[2:], abs=1e-9)
    assert np.isfinite(scores(np.array([0.0, 0.0, 0.0, 1e9, -1e9]))[2:]).all()


def test_one_step_of_a_cusum_crosses_as_a_normal_does() -> None:
    # The chain moves in cells of limit / 200.
    assert crossing_probability(1, 2.0) == pytest.approx(stats.norm.sf(2.0 + SLACK), rel=0.03)


def test_the_limit_of_a_cusum_is_crossed_as_often_as_asked() -> None:
    limit, count = cusum_limit(20, 0.05), 40_000
    steps = np.random.default_rng(5).standard_normal((20, count))
    total, most = np.zeros(count), np.zeros(count)
    for step in steps:
        total = np.maximum(0.0, total + step - SLACK)
        most = np.maximum(most, total)
    # 40,000 runs tell 5% to .0022 (two standard errors), and the cells the rest.
    assert (most > limit).mean() == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_a_cusum_finds_a_shift_to_either_side_and_when_it_began(side: float) -> None:
    onsets = []
    for seed in range(20):
        generator = np.random.default_rng(seed)
        shifted = generator.standard_normal(30)
        shifted[20:] += side * 4.0
        (found,) = cusum(shifted, 0.01)
        assert 20 <= found.known <= 26
        assert found.onset < 20
        before, since = shifted[: found.onset + 1], shifted[found.onset + 1 : found.known + 1]
        assert found.shift == pytest.approx(since.mean() - before.mean())
        onsets.append(found.onset)
    # Where the sum happened to have grown before, the onset lies early.
    assert 17 <= np.median(onsets) <= 19


def test_a_cusum_is_quiet_on_what_is_calm_or_short() -> None:
    quiet = [cusum(np.random.default_rng(seed).standard_normal(20), 0.01) for seed in range(30)]
    assert quiet.count(()) >= 29
    assert cusum(np.array([0.0, 9.0]), 0.01) == ()


def test_a_cusum_is_asked_of_an_approved_plateau_alone() -> None:
    ramp = np.linspace(0.0, 1.0, 20) + 0.001 * np.random.default_rng(0).standard_normal(20)
    moving = {"gap": Moving(ramp, 0.01, upward=True)}
    assert detect({}, moving).shifts == {}
    assert detect({}, moving, np.ones(20, dtype=bool)).shifts["gap"], "it alarms on every ramp"
    assert detect({}, moving, np.arange(20) >= 18).shifts == {}, "two members tell no spread"


def test_slower_growth_of_what_only_growth_counts_for_is_shown_and_warns_of_nothing() -> None:
    slower = np.concatenate([np.arange(10.0), 9.0 + 0.1 * np.arange(1, 11)])
    slower += 0.001 * np.random.default_rng(0).standard_normal(20)
    found = detect({}, {"gap": Moving(slower, 0.1, upward=True), "share": Moving(slower, 0.1)})
    (kink,) = found.breaks["gap"]
    assert kink.at in (8, 9), "member 9 lies on both lines"
    assert found.counted_breaks["gap"] == ()
    assert len(found.counted_breaks["share"]) == 1


def test_thresholds_are_corrected_for_everything_that_is_looked_at() -> None:
    one: dict[str, dict[str | None, Falling]] = {"nll": {None: Falling(flat(10), 0.1)}}
    categories: dict[str | None, Falling] = {str(k): Falling(flat(10, k), 0.1) for k in range(4)}
    more = {**one, "worst": categories}
    moving = {"gap": Moving(np.random.default_rng(0).standard_normal(10), 0.1)}
    assert detect(one, {}).drawdowns["nll"][None].threshold == pytest.approx(threshold(10, 1))
    both = detect(more, moving)
    assert both.tests == 3
    assert both.drawdowns["nll"][None].threshold == pytest.approx(threshold(10, 3))
    assert both.drawdowns["worst"]["0"].threshold == pytest.approx(threshold(10, 12))
    assert detect({"nll": {None: Falling(flat(4), 0.1)}}, {}).drawdowns == {}


def test_prompts_are_aligned_by_their_places() -> None:
    prompts, values = aligned([((2, 5), (1.0, 2.0)), None, ((5, 9), (3.0, 4.0))])
    assert prompts == (2, 5, 9)
    np.testing.assert_array_equal(values, [[1.0, 2.0, np.nan], [np.nan] * 3, [np.nan, 3.0, 4.0]])


def test_a_change_point_within_the_least_effect_is_shown_and_warns_of_nothing() -> None:
    jump = 0.001 * np.random.default_rng(0).standard_normal(16)
    jump[8:] += 0.1
    small, large = (detect({}, {"gap": Moving(jump, least, upward=True)}) for least in (0.05, 0.2))
    assert [one.at for one in small.breaks["gap"]] == [one.at for one in large.breaks["gap"]] == [7]
    assert (len(small.counted_breaks["gap"]), large.counted_breaks["gap"]) == (1, ())
    # Surely beyond, not by its value alone.
    assert detect({}, {"gap": Moving(jump, small.breaks["gap"][0].change - 1e-6)}).counted_breaks["gap"] == ()


def test_a_shift_within_the_least_effect_warns_of_nothing() -> None:
    shifted = np.random.default_rng(3).standard_normal(24)
    shifted[16:] += 5.0
    plateau = np.ones(24, dtype=bool)
    assert detect({}, {"gap": Moving(shifted, 1.0)}, plateau).shifts["gap"]
    assert detect({}, {"gap": Moving(shifted, 9.0)}, plateau).shifts["gap"] == ()
    assert detect({}, {"gap": Moving(-shifted, 1.0, upward=True)}, plateau).shifts["gap"] == ()
