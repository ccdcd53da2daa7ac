"""Contraction fits against closed forms and numpy's SVD."""

import math

import numpy as np
import pytest

from spinal.analysis.contraction import (
    alpha_influence,
    blended_weights,
    effective_rank,
    fit_window,
    fit_windows,
    grouped_se,
    influence_se,
    numerical_rank,
    participation_ratio,
    singular_values_of_rows,
    slope_weights,
    top_share,
    window_ranks,
)
from spinal.analysis.uncertainty import student_quantile


def power_law(exponent: float, count: int = 200) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.float64) ** -exponent


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 2.5])
def test_an_exact_power_law_gives_its_exponent_in_every_window(exponent: float) -> None:
    # 1e-7: the bar of the method; double rounding of log k^-a leaves about 1e-14.
    for fit in fit_windows(power_law(exponent), 200, min_ranks=16).values():
        assert fit.alpha == pytest.approx(exponent, abs=1e-7)
        assert fit.curvature == pytest.approx(0.0, abs=1e-7)


def test_alpha_ignores_the_scale_of_the_rows() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 64)) * power_law(0.8, 64)
    for scale in (1e-6, 1e6):
        ours = fit_windows(singular_values_of_rows(rows), 64, min_ranks=8)
        theirs = fit_windows(singular_values_of_rows(rows * scale), 64, min_ranks=8)
        for name, fit in ours.items():
            # 1e-10: only the rounding of the products differs, never the formula.
            assert theirs[name].alpha == pytest.approx(fit.alpha, abs=1e-10)


@pytest.mark.parametrize("shape", [(300, 40), (40, 300)])
def test_singular_values_are_those_of_the_centred_rows(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).standard_normal(shape) + 100.0
    exact = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    rank = numerical_rank(singular_values_of_rows(rows), shape[0], 1e-7)
    # A Gram matrix squares the condition number: 1e-9 is float64 epsilon times (sigma_1 / sigma_r)^2, with room.
    assert singular_values_of_rows(rows)[:rank] == pytest.approx(exact[:rank], rel=1e-9)


def test_curvature_is_the_quadratic_coefficient_of_the_full_fit() -> None:
    log_k = np.log(np.arange(1.0, 101.0))
    sigma = np.exp(1.0 - 0.7 * log_k - 0.2 * log_k**2)
    fit = fit_window(sigma, 10, 50, min_ranks=16)
    assert fit.curvature == pytest.approx(-0.2, abs=1e-10)
    assert fit.curved


def test_the_slope_is_that_of_numpy_polyfit() -> None:
    sigma = np.sort(np.random.default_rng(2).uniform(0.1, 2.0, 100))[::-1]
    fit = fit_window(sigma, 5, 30, min_ranks=16)
    assert fit.alpha == pytest.approx(-np.polyfit(np.log(np.arange(5, 31)), np.log(sigma[4:30]), 1)[0], abs=1e-12)


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        (100, {"bulk": (5, 30), "body": (10, 50), "wide": (10, 90), "tail": (51, 100)}),
        # 0.05 * 96 = 4.8, 0.30 * 96 = 28.8, 0.10 * 96 = 9.6, 0.90 * 96 = 86.4
        (96, {"bulk": (5, 28), "body": (10, 48), "wide": (10, 86), "tail": (49, 96)}),
        (95, {"bulk": (5, 28), "body": (10, 47), "wide": (10, 85), "tail": (48, 95)}),
    ],
)
def test_windows_are_the_stated_ranks(rank: int, expected: dict[str, tuple[int, int]]) -> None:
    assert window_ranks(rank) == expected


def test_windows_too_small_or_empty_say_why() -> None:
    assert {fit.reason for fit in fit_windows(power_law(1.0), 15, min_ranks=16).values()} == {"insufficient_rank"}
    assert {fit.reason for fit in fit_windows(np.zeros(5), 0, min_ranks=16).values()} == {"constant"}
    assert all(fit.alpha is None for fit in fit_windows(np.zeros(5), 0, min_ranks=16).values())


def test_numerical_rank_counts_rows_dimensions_and_tolerance() -> None:
    sigma = np.array([1.0, 0.5, 1e-8, 0.0])
    assert numerical_rank(sigma, 100, 1e-7) == 2
    assert numerical_rank(sigma, 100, 1e-9) == 3
    assert numerical_rank(np.ones(4), 3, 1e-7) == 2
    assert numerical_rank(np.zeros(4), 100, 1e-7) == 0


def test_slope_weights_take_a_slope_and_ignore_a_level() -> None:
    weights = slope_weights(7, 40)
    assert weights.sum() == pytest.approx(0.0, abs=1e-12)
    assert weights @ np.log(np.arange(7, 41)) == pytest.approx(-1.0, abs=1e-12)


def test_companions_have_their_closed_forms() -> None:
    assert effective_rank(np.ones(17)) == pytest.approx(17.0)
    assert participation_ratio(np.ones(17)) == pytest.approx(17.0)
    assert top_share(np.array([3.0, 1.0])) == 0.75
    assert effective_rank(np.array([5.0, 0.0])) == 1.0
    p = np.array([0.75, 0.25])
    assert effective_rank(p) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert effective_rank(np.zeros(3)) is participation_ratio(np.zeros(3)) is top_share(np.zeros(3)) is None


def correlated_rows(generator: np.random.Generator, prompts: int, per_prompt: int, width: int) -> np.ndarray:
    """Rows of prompts that share half of their variance, with sigma_k = 1 / k."""
    shared = generator.standard_normal((prompts, 1, width))
    own = generator.standard_normal((prompts, per_prompt, width))
    return (math.sqrt(0.5) * (shared + own) * power_law(1.0, width)).reshape(prompts * per_prompt, width)


def alpha_and_influence(rows: np.ndarray, prompts: int, *, blended: bool = True) -> tuple[float, np.ndarray]:
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    fit = fit_windows(np.sqrt(values), values.size, min_ranks=3)["body"]
    energies = ((centred @ vectors) ** 2).reshape(prompts, -1, values.size).sum(axis=1)
    assert fit.alpha is not None
    return fit.alpha, alpha_influence(energies, values, fit, rows=len(rows) if blended else None)


def test_influence_is_the_derivative_of_alpha_by_the_weight_of_a_prompt() -> None:
    prompts, per_prompt = 40, 10
    rows = correlated_rows(np.random.default_rng(3), prompts, per_prompt, 16)
    alpha, influence = alpha_and_influence(rows, prompts, blended=False)
    step = 1e-5
    for prompt in (0, 17):
        weights = np.ones(len(rows))
        weights[prompt * per_prompt : (prompt + 1) * per_prompt] += step * prompts
        centred = rows - np.average(rows, axis=0, weights=weights)
        moved = np.sqrt(np.linalg.eigvalsh((centred * weights[:, None]).T @ centred)[::-1])
        slope = (fit_windows(moved, 16, min_ranks=3)["body"].alpha - alpha) / step  # type: ignore[operator]  # it has an alpha
        # The forward difference errs by step * second derivative, here below 1e-3 of the influence.
        assert influence[prompt] == pytest.approx(slope, rel=1e-2, abs=1e-3)


def test_with_ever_more_rows_blended_influences_become_the_derivative() -> None:
    rows = correlated_rows(np.random.default_rng(3), 40, 10, 16)
    centred = rows - rows.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1], vectors[:, ::-1]
    fit = fit_windows(np.sqrt(values), 16, min_ranks=3)["body"]
    energies = ((centred @ vectors) ** 2).reshape(40, -1, 16).sum(axis=1)
    exact = alpha_influence(energies, values, fit, rows=None)
    apart = [np.abs(alpha_influence(energies, values, fit, rows=n) - exact).max() for n in (10**2, 10**4, 10**6, 10**8)]
    # The spread is of order 1 / rows.
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < 1e-4 * np.abs(exact).max()


def test_blending_keeps_what_scaling_and_doubling_do_to_alpha() -> None:
    """Nothing, where all rows scale alike: the weighted energies of all prompts add up to sum c_k = 0."""
    eigenvalues = np.array([9.0, 4.0, 4.0, 1.0, 0.5, 0.4, 0.1, 1e-30, 0.0])
    fit = fit_windows(np.sqrt(eigenvalues), 7, min_ranks=2)["wide"]
    weights = blended_weights(eigenvalues, fit, 20)
    # Sums of seven terms of order 1.
    assert weights @ eigenvalues == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(weights).all()
    assert weights == pytest.approx(blended_weights(eigenvalues * 2.0**-60, fit, 20) * 2.0**-60, rel=1e-12)
    # What cannot be told apart has one weight.
    assert weights[1] == pytest.approx(weights[2], rel=1e-12)


@pytest.mark.parametrize(("count", "width", "window"), [(48, 96, "wide"), (256, 48, "body")])
def test_the_error_of_a_difference_is_its_spread(count: int, width: int, window: str) -> None:
    """One row a prompt, fewer and more than dimensions; a second side that differs a little in every direction."""
    generator = np.random.default_rng(12)
    turn = 0.05 * generator.standard_normal((width, width)) / math.sqrt(width)
    found: dict[bool, list[float]] = {True: [], False: []}
    differences = []
    for _ in range(300):
        rows = generator.standard_normal((count, width)) * power_law(0.8, width)
        sides = [_spectrum(side) for side in (rows, rows + rows @ turn)]
        fits = [fit_windows(np.sqrt(values), min(count - 1, width), min_ranks=3)[window] for values, _ in sides]
        differences.append(fits[1].alpha - fits[0].alpha)  # type: ignore[operator]  # they have one
        for blended in found:
            first, second = (
                alpha_influence(energies, values, fit, rows=count if blended else None)
                for (values, energies), fit in zip(sides, fits, strict=True)
            )
            found[blended].append(float(influence_se(second - first)) ** 2)
    ratio = {blended: math.sqrt(np.mean(squares)) / np.std(differences) for blended, squares in found.items()}
    # Three hundred sets know a standard deviation to 4%. With few ranks in the fit a fifth too much is left of the half
    # that the derivative has too much.
    assert 0.9 <= ratio[True] <= 1.3
    assert ratio[False] > 1.3 * ratio[True]


def _spectrum(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (r,) of the centred rows, and the energy of each row along each direction."""
    centred = rows - rows.mean(axis=0)
    _, sigma, directions = np.linalg.svd(centred, full_matrices=False)
    return sigma**2, (centred @ directions.T) ** 2


def test_the_influence_interval_covers_the_true_exponent() -> None:
    generator = np.random.default_rng(4)
    prompts, sets, hits = 128, 200, 0
    for _ in range(sets):
        alpha, influence = alpha_and_influence(correlated_rows(generator, prompts, 8, 24), prompts)
        hits += abs(alpha - 1.0) < student_quantile(prompts - 1) * float(influence_se(influence))
    # Nominal .95; two-hundred sets scatter by .015, and the finite-sample bias costs up to .02.
    assert 0.90 <= hits / sets <= 0.99


def test_the_paired_interval_covers_the_difference_and_is_far_shorter() -> None:
    generator = np.random.default_rng(5)
    prompts, found, errors, unpaired = 128, [], [], []
    for _ in range(150):
        rows = correlated_rows(generator, prompts, 8, 24)
        changed = (rows + 0.02 * generator.standard_normal(rows.shape) * power_law(1.0, 24)) * power_law(0.05, 24)
        before, mine = alpha_and_influence(rows, prompts)
        after, theirs = alpha_and_influence(changed, prompts)
        found.append(after - before)
        errors.append(float(influence_se(theirs - mine)))
        unpaired.append(math.hypot(float(influence_se(mine)), float(influence_se(theirs))))
    hits = np.abs(np.array(found) - np.mean(found)) < 1.96 * np.array(errors)
    assert 0.90 <= hits.mean() <= 0.99
    assert np.mean(found) == pytest.approx(0.05, abs=1e-3)
    assert np.mean(unpaired) > 5 * np.mean(errors)


def test_the_group_jackknife_covers_where_rows_are_fewer_than_dimensions() -> None:
    generator = np.random.default_rng(6)
    rows_count, width, groups = 64, 80, 16
    alphas, errors = [], []
    for _ in range(150):
        rows = generator.standard_normal((rows_count, width)) * power_law(1.0, width)
        group = generator.permutation(rows_count) % groups
        left_out = np.array([_alpha(rows[group != g]) for g in range(groups)])
        alphas.append(_alpha(rows))
        errors.append(float(grouped_se(left_out)))
    hits = np.abs(np.array(alphas) - np.mean(alphas)) < student_quantile(groups - 1) * np.array(errors)
    # About the mean over sets: with n < d alpha is biased, which the result says (`underdetermined`). A jackknife
    # errs on the wide side.
    assert 0.90 <= hits.mean() <= 0.99
    assert np.mean(errors) < 1.6 * np.std(alphas)


def _alpha(rows: np.ndarray) -> float:
    sigma = singular_values_of_rows(rows)
    alpha = fit_windows(sigma, numerical_rank(sigma, len(rows), 1e-7), min_ranks=3)["bulk"].alpha
    assert alpha is not None
    return alpha
