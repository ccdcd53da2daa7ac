"""Scores and shapes on curves computed by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from spinal.analysis.scores import strength, terminal_nodes
from spinal.analysis.shape import entropy_roughness, kendall_tau, path_coherence, turning_angle


def test_rise_and_fall_are_relative_to_the_reference() -> None:
    alpha = (np.array([[9.0, 9.0, 1.0, 3.0]]), np.array([[9.0, 9.0, 2.0, 3.0]]))
    steps = (np.array([[np.nan, 9.0, 0.4, 0.4]]), np.array([[np.nan, 9.0, 0.3, 0.3]]))
    found = strength(alpha, steps, np.array([2, 3]), 3)
    assert found["contraction_rise"][0] == pytest.approx(0.25)
    assert found["transport_fall"][0] == pytest.approx(0.25)
    assert found["delta_align"][0] == pytest.approx(0.25)


def test_a_reference_without_scale_gives_no_score_instead_of_a_huge_one() -> None:
    zero, one = np.zeros((1, 4)), np.ones((1, 4))
    found = strength((one, one), (zero, one), np.array([2, 3]), 3)
    assert found["contraction_rise"][0] == 0.0
    assert np.isnan(found["transport_fall"][0])
    assert np.isnan(found["delta_align"][0])


def test_aggregates_leave_the_saturated_first_step_out() -> None:
    assert terminal_nodes((1, 4)).tolist() == [2, 3, 4]
    assert terminal_nodes((7, 10)).tolist() == [7, 8, 9, 10]
    assert terminal_nodes((1, 1)).size == 0


def test_a_straight_path_is_fully_coherent_and_a_corner_is_not() -> None:
    straight = np.linspace(0.0, 1.0, 7)[:, None] * np.array([1.0, 2.0, -3.0])
    corner = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert path_coherence(straight[None])[0] == pytest.approx(1.0, abs=1e-12)
    assert path_coherence(straight[None])[0] <= 1.0
    assert path_coherence(corner[None])[0] == pytest.approx(math.sqrt(2) / 2)
    assert np.isnan(path_coherence(corner[None, :1])[0])


def test_turning_is_the_angle_between_segments() -> None:
    assert turning_angle(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])) == pytest.approx(math.pi / 2)
    assert turning_angle(np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])) == 0.0
    # Half a right angle at a scale where arccos of a dot product returns 0.
    assert turning_angle(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 1e-9]])) == pytest.approx(1e-9, rel=1e-6)
    assert math.isnan(turning_angle(np.zeros((2, 2))))


def test_kendall_is_that_of_scipy_ties_included() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y = generator.integers(0, 6, 12).astype(float), generator.integers(0, 6, 12).astype(float)
        assert kendall_tau(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert math.isnan(kendall_tau(np.ones(4), np.arange(4.0)))


def test_a_path_without_bends_has_no_roughness() -> None:
    assert entropy_roughness(np.array([1.0, 2.0, 3.0, 4.0])) == 0.0
    assert entropy_roughness(np.array([1.0, 2.0, 1.0, 2.0])) == 2.0
    assert math.isnan(entropy_roughness(np.array([1.0, 2.0])))
