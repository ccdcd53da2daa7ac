"""Intervals, corrected flags and the quantities they rest on."""

import math

import numpy as np
import pytest
from scipy import stats

from spinal.analysis.uncertainty import (
    alpha_deviations,
    alpha_estimates,
    alpha_se,
    approximate_student_quantile,
    corrected_flags,
    draw_shares,
    mean_estimates,
    percentile_interval,
    prompt_means,
    resampled_means,
    student_quantile,
)
from spinal.documents.editions import FORMER
from tests.support.fabricated import changed_pair


def test_every_draw_is_a_full_resample_and_the_seed_fixes_it() -> None:
    shares = draw_shares(37, 500, 3)
    assert shares.sum(axis=1) == pytest.approx(np.ones(500))
    assert np.array_equal(shares * 37, np.round(shares * 37))
    assert np.array_equal(shares, draw_shares(37, 500, 3))
    assert not np.array_equal(shares, draw_shares(37, 500, 4))


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 15, 127, 4095])
def test_the_student_quantile_is_that_of_the_distribution(degrees: int) -> None:
    # Two implementations of the same function in double precision.
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-12)


@pytest.mark.parametrize("degrees", [3, 5, 15, 127])
def test_comparisons_of_the_release_before_keep_the_quantile_that_they_had(degrees: int) -> None:
    # The expansion is asymptotic: 2e-3 relative at three degrees of freedom, far less at the fifteen used.
    known = {3: 3.1589931, 5: 2.5677650, 15: 2.1314171, 127: 1.9788195}
    assert approximate_student_quantile(degrees) == pytest.approx(known[degrees], abs=1e-7)
    assert abs(approximate_student_quantile(15) / student_quantile(15) - 1) < 2e-5


def test_an_edition_decides_on_the_quantile() -> None:
    pair = changed_pair()
    now, then = pair.compare(), pair.compare(edition=FORMER)
    reach = []
    for found in (now, then):
        change = found.layers[9].d_contraction.all
        assert change.ci is not None
        assert change.value is not None
        reach.append(change.ci[1] - change.value)
    groups = pair.reference_capture.all.replicates.shape[-1]
    ratio = student_quantile(groups - 1) / approximate_student_quantile(groups - 1)
    assert reach[0] / reach[1] == pytest.approx(ratio, rel=1e-9)
    assert ratio != 1.0
    assert (now.scorer_version, then.scorer_version) == ("4", "2")
    assert now.digest != then.digest


def test_the_bootstrap_interval_covers_the_mean() -> None:
    generator = np.random.default_rng(0)
    prompts, sets = 64, 300
    shares = draw_shares(prompts, 500, 1)
    truth = math.exp(0.5**2 / 2)
    values = np.exp(0.5 * generator.standard_normal((prompts, sets)))
    low, high = percentile_interval(resampled_means(values, shares))
    coverage = np.mean((low <= truth) & (truth <= high))
    # Nominal .95 with skewed values and 64 prompts; three hundred sets scatter by .013.
    assert 0.90 <= coverage <= 0.99


def test_missing_values_leave_only_their_own_prompt_out() -> None:
    values = np.random.default_rng(1).standard_normal((20, 3))
    values[4, 1] = np.nan
    values[:, 2] = np.nan
    shares = draw_shares(20, 300, 0)
    means, draws = prompt_means(values), resampled_means(values, shares)
    assert means[1] == pytest.approx(np.delete(values[:, 1], 4).mean())
    assert np.isnan(means[2])
    known = np.delete(np.arange(20), 4)
    expected = shares[:, known] @ values[known, 1] / shares[:, known].sum(axis=1)
    assert draws[:, 1] == pytest.approx(expected)
    assert np.isnan(draws[:, 2]).all()
    estimates = mean_estimates(values, shares, reasons=["a", "b", "c"], test=True)
    assert estimates[2].value is None
    assert estimates[2].reason == "c"
    assert estimates[0].mde == pytest.approx(2.8 * estimates[0].se)  # type: ignore[operator]  # it has one


def test_corrected_flags_hold_the_family_error_where_nothing_changed() -> None:
    generator = np.random.default_rng(2)
    prompts, nodes, sets = 100, 24, 200
    shares = draw_shares(prompts, 400, 0)
    false_alarms = 0
    for _ in range(sets):
        values = generator.standard_normal((prompts, 1)) + generator.standard_normal((prompts, nodes))
        means, draws = values.mean(axis=0), resampled_means(values, shares)
        false_alarms += bool(corrected_flags(means, draws - means, draws.std(axis=0, ddof=1)).any())
    # Nominal .05; two hundred sets scatter by .015. Uncorrected flags alarm in most of the sets.
    assert false_alarms / sets <= 0.11


def test_corrected_flags_find_a_change_well_above_its_minimum_detectable_effect() -> None:
    generator = np.random.default_rng(3)
    values = generator.standard_normal((200, 10))
    values[:, 6] += 6 * 2.8 / math.sqrt(200)
    means = values.mean(axis=0)
    draws = resampled_means(values, draw_shares(200, 400, 0))
    assert np.flatnonzero(corrected_flags(means, draws - means, draws.std(axis=0, ddof=1))).tolist() == [6]


def test_what_never_varies_is_never_flagged() -> None:
    flags = corrected_flags(np.array([0.0, 1.0]), np.zeros((50, 2)), np.zeros(2))
    assert not flags.any()


@pytest.mark.parametrize(("kind", "replicates"), [("influence", 64), ("groups", 16)])
def test_deviations_of_alpha_have_the_standard_error_that_is_reported(kind: str, replicates: int) -> None:
    values = np.random.default_rng(4).standard_normal((5, replicates))
    if kind == "influence":
        values -= values.mean(axis=1, keepdims=True)
    drawn = alpha_deviations(values, kind, draw_shares(replicates, 40_000, 0), 7).std(axis=0)  # type: ignore[arg-type]  # literal members
    expected = alpha_se(values, kind)  # type: ignore[arg-type]  # literal members
    # Exact ratios: the bootstrap divides by P where the jackknife has P - 1; Student's t with 15 degrees of freedom
    # has variance 15/13. 40,000 draws know a standard deviation to 0.5%.
    ratio = math.sqrt(63 / 64) if kind == "influence" else math.sqrt(15 / 13)
    assert drawn == pytest.approx(expected * ratio, rel=0.02)


def test_an_alpha_without_replicates_keeps_its_value_and_has_no_interval() -> None:
    (known,) = alpha_estimates(
        np.array([0.3]), np.full((1, 8), np.nan), "influence", draw_shares(8, 50, 0), 0, reasons=["constant"]
    )
    assert known.value == 0.3
    assert known.ci is None
    assert known.significant is None
