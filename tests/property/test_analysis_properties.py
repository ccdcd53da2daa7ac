"""Properties of the pure analysis over all inputs that can occur."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spinal.analysis.contraction import fit_windows, numerical_rank, window_ranks
from spinal.analysis.localization import localize, smallest_window, terminal_window
from spinal.analysis.nulls import percentile_of
from spinal.analysis.scores import strength
from spinal.analysis.shape import kendall_tau, path_coherence
from spinal.analysis.uncertainty import draw_shares, mean_estimates

weights = st.floats(0.0, 1e6, allow_subnormal=False)
profiles = arrays.arrays(np.float64, st.integers(1, 40), elements=weights)


@given(profiles, st.floats(0.01, 0.99))
def test_a_place_is_complete_and_in_range_or_null_with_a_reason(profile: np.ndarray, fraction: float) -> None:
    blocks = profile.size
    place = localize(profile, None, terminal_window(blocks, fraction))
    if not profile.any():
        assert place.reason
        assert place.center is place.peak is place.window80 is None
        return
    assert place.reason is None
    assert place.center is not None
    assert place.spread is not None
    assert place.gini is not None
    assert place.effective_blocks is not None
    assert place.terminal_share is not None
    assert place.window50 is not None
    assert place.window80 is not None
    # 1e-9: sums of at most forty doubles.
    assert 1 / blocks - 1e-9 <= place.center <= 1 + 1e-9
    assert 0.0 <= place.spread <= 0.5 + 1e-9
    assert -1e-9 <= place.gini <= 1 - 1 / blocks + 1e-9
    assert 1 - 1e-9 <= place.effective_blocks <= blocks + 1e-9
    assert -1e-9 <= place.terminal_share <= 1 + 1e-9
    assert place.window50[1] - place.window50[0] <= place.window80[1] - place.window80[0]


@given(profiles.filter(lambda profile: profile.any()), st.integers(-40, 40))
def test_a_place_ignores_the_unit_of_the_profile(profile: np.ndarray, exponent: int) -> None:
    terminal = terminal_window(profile.size, 0.7)
    # Powers of two scale doubles exactly, so nothing but the formula can differ.
    assert localize(profile * 2.0**exponent, None, terminal) == localize(profile, None, terminal)


@given(profiles.filter(lambda profile: profile.any()), st.sampled_from([Fraction(1, 2), Fraction(4, 5)]))
def test_no_shorter_run_holds_the_share(profile: np.ndarray, share: Fraction) -> None:
    first, last = smallest_window(profile, share)
    needed = float(share) * profile.sum()
    assert profile[first - 1 : last].sum() >= needed * (1 - 1e-9)
    length = last - first
    if length:
        runs = np.lib.stride_tricks.sliding_window_view(profile, length).sum(axis=1)
        assert (runs < needed * (1 + 1e-9)).all()


@given(profiles.filter(lambda profile: profile.size > 1 and profile.any()), st.floats(0.0, 1e6))
def test_more_change_at_the_end_never_lowers_the_terminal_share(profile: np.ndarray, added: float) -> None:
    terminal = terminal_window(profile.size, 0.7)
    more = profile.copy()
    more[-1] += added
    before, after = (localize(p, None, terminal).terminal_share for p in (profile, more))
    assert before is not None
    assert after is not None
    assert after >= before - 1e-9


@given(st.integers(1, 20_000), st.floats(0.01, 0.99))
def test_the_terminal_window_is_never_empty(blocks: int, fraction: float) -> None:
    first, last = terminal_window(blocks, fraction)
    assert 1 <= first <= last == blocks


@given(st.integers(0, 5000))
def test_windows_stay_inside_the_ranks(rank: int) -> None:
    for low, high in window_ranks(rank).values():
        assert low >= 1
        assert high <= rank


@given(
    arrays.arrays(np.float64, st.integers(1, 80), elements=st.floats(0.0, 1e6, allow_subnormal=False)),
    st.integers(1, 200),
)
def test_fits_are_finite_or_null_with_a_reason(values: np.ndarray, rows: int) -> None:
    sigma = np.sort(values)[::-1]
    for fit in fit_windows(sigma, numerical_rank(sigma, rows, 1e-7), min_ranks=3).values():
        assert (fit.alpha is None) == (fit.reason is not None)
        if fit.alpha is not None:
            # Singular values fall with rank, so their exponent cannot be negative beyond rounding.
            assert np.isfinite(fit.alpha)
            assert fit.alpha >= -1e-9


@given(
    arrays.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 6)),
        elements=st.floats(-1e6, 1e6) | st.just(float("nan")),
    )
)
@settings(max_examples=60)
def test_estimates_are_finite_or_null_with_a_reason(values: np.ndarray) -> None:
    prompts, nodes = values.shape
    for estimate in mean_estimates(values, draw_shares(prompts, 200, 0), reasons=["why"] * nodes, test=True):
        assert (estimate.value is None) == (estimate.reason is not None)
        if estimate.ci is not None:
            assert estimate.ci[0] <= estimate.ci[1]


curve = arrays.arrays(np.float64, (1, 8), elements=st.floats(0.01, 100.0))


@given(curve, curve)
def test_a_side_against_itself_has_no_strength(alpha: np.ndarray, steps: np.ndarray) -> None:
    found = strength((alpha, alpha), (steps, steps), np.arange(5, 8), 7)
    assert found["delta_align"][0] == 0.0
    assert found["coherence"][0] == found["coherence_reference"][0]
    assert 0.0 < found["coherence"][0] <= 1.0


@given(curve, curve, st.integers(-20, 20))
def test_strength_ignores_the_unit_of_alpha_and_of_transport(a: np.ndarray, b: np.ndarray, exponent: int) -> None:
    nodes, scale = np.arange(5, 8), 2.0**exponent
    plain = strength((a, b), (b, a), nodes, 7)
    scaled = strength((a * scale, b * scale), (b / scale, a / scale), nodes, 7)
    for name, value in plain.items():
        assert scaled[name] == pytest.approx(value, rel=1e-12, abs=1e-12)


@given(arrays.arrays(np.float64, (3, 6, 3), elements=st.floats(-1e3, 1e3, allow_subnormal=False)))
def test_coherence_is_a_share(points: np.ndarray) -> None:
    points[..., 0] = np.arange(6)
    coherence = path_coherence(points)
    assert ((coherence > 0.0) & (coherence <= 1.0)).all()


@given(arrays.arrays(np.float64, 9, elements=st.floats(-1e3, 1e3), unique=True))
def test_kendall_sees_order_alone(values: np.ndarray) -> None:
    depth = np.arange(9.0)
    ranks = np.argsort(np.argsort(values)).astype(float)
    assert kendall_tau(depth, values) == kendall_tau(depth, ranks) == -kendall_tau(depth, -ranks)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(-10, 10), st.floats(0, 10))
def test_a_larger_observation_never_has_a_lower_percentile(values: list[float], low: float, more: float) -> None:
    below, above = percentile_of(low, values), percentile_of(low + more, values)
    assert below is not None
    assert above is not None
    assert 0.0 <= below <= above <= 100.0
