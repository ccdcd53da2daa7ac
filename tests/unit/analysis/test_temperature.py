"""The fitted temperature is where the NLL of whole distributions is lowest, found from its values at a few."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar

from spinal.analysis.temperature import LOG_TAU, fitted_log_temperature
from spinal.documents.temperatures import TEMPERATURES

Array = npt.NDArray[np.float64]
TOLERANCE = 1e-3
"""Between points that lie .2 apart: the worst of some fifty curves is off by 3e-4, and limits are some hundredths."""


def nll(logits: Array, targets: Array, log_tau: float) -> float:
    z = logits / np.exp(log_tau)
    return float(np.mean(np.logaddexp.reduce(z, axis=-1) - z[np.arange(len(z)), targets]))


def drawn(seed: int, spread: float, *, sharper: float = 1.0, tokens: int = 400) -> tuple[Array, Array]:
    """Logits of a vocabulary of 200, and targets drawn from them ``sharper`` times as sure."""
    random = np.random.default_rng(seed)
    logits = random.standard_t(3, (tokens, 200)) * spread
    noise = random.gumbel(size=logits.shape)
    return logits, (sharper * logits + noise).argmax(-1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.7, 1.5, 3.0])
@pytest.mark.parametrize("sharper", [0.5, 1.0, 1.8])
def test_it_is_the_minimum_of_the_exact_curve(seed: int, spread: float, sharper: float) -> None:
    logits, targets = drawn(seed, spread, sharper=sharper)
    exact = minimize_scalar(
        lambda x: nll(logits, targets, x), bounds=(-2.0, 2.0), method="bounded", options={"xatol": 1e-6}
    ).x
    found = float(fitted_log_temperature(np.array([nll(logits, targets, x) for x in LOG_TAU])))
    assert found == pytest.approx(exact, abs=TOLERANCE)


def test_logits_that_are_scaled_shift_it_by_their_scale() -> None:
    logits, targets = drawn(7, 1.5)
    base = float(fitted_log_temperature(np.array([nll(logits, targets, x) for x in LOG_TAU])))
    for scale in (0.5, 1.3, 2.0):
        found = float(fitted_log_temperature(np.array([nll(scale * logits, targets, x) for x in LOG_TAU])))
        assert found == pytest.approx(base + np.log(scale), abs=2 * TOLERANCE)


def test_the_end_of_the_grid_is_no_minimum() -> None:
    logits, targets = drawn(3, 1.5)
    for scale in (8.0, 0.1):
        assert np.isnan(fitted_log_temperature(np.array([nll(scale * logits, targets, x) for x in LOG_TAU])))


def test_what_is_not_a_number_is_not_fitted() -> None:
    curve = (LOG_TAU - 0.1) ** 2
    for hole in (np.nan, np.inf):
        broken = curve.copy()
        broken[11] = hole
        with np.errstate(invalid="ignore"):
            found = fitted_log_temperature(np.stack([broken, curve]))
        assert np.isnan(found[0])
        assert found[1] == pytest.approx(0.1, abs=1e-9)


def test_draws_are_means_over_their_prompts() -> None:
    curves = np.stack([1.0 + (LOG_TAU - 0.2) ** 2, 3.0 + 2.0 * (LOG_TAU + 0.4) ** 2])
    shares = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    # Of the two parabolas together: (0.2 * 1 - 0.4 * 2) / 3.
    np.testing.assert_allclose(fitted_log_temperature(shares @ curves), [0.2, -0.4, -0.2], atol=1e-9)
    assert float(fitted_log_temperature(shares[2] @ curves)) == pytest.approx(-0.2, abs=1e-9)


def test_the_grid_is_even_and_holds_the_models_own_temperature() -> None:
    assert TEMPERATURES[len(TEMPERATURES) // 2] == 1.0
    np.testing.assert_allclose(np.diff(LOG_TAU), 0.2, atol=1e-12)
