"""Numbers in terms that need no training are those numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spinal.analysis.human_terms import drawn_differently, one_in, perplexity_ratio, times

WEIGHTS = st.lists(st.floats(0.0, 1.0), min_size=4, max_size=4)


@given(WEIGHTS, WEIGHTS)
def test_the_share_of_tokens_drawn_differently_lies_between_its_bounds(one: list[float], other: list[float]) -> None:
    """Oracle: the total variation distance itself, of distributions whose Fisher-Rao distance is 2 arccos of the
    Bhattacharyya coefficient. 1e-7: arccos near 1 halves the digits of a float."""
    p, q = np.array(one) + 1e-6, np.array(other) + 1e-6
    p, q = p / p.sum(), q / q.sum()
    gap = 2 * np.arccos(min(1.0, float(np.sqrt(p * q).sum())))
    least, most = drawn_differently(gap)
    assert least - 1e-7 <= 0.5 * np.abs(p - q).sum() <= most + 1e-7


@given(st.lists(st.floats(0.0, 3.14), min_size=1, max_size=20))
def test_the_bounds_hold_for_means(gaps: list[float]) -> None:
    each = np.array([drawn_differently(gap) for gap in gaps])
    least, most = drawn_differently(float(np.mean(gaps)))
    assert least <= each[:, 0].mean() + 1e-12
    assert most >= each[:, 1].mean() - 1e-12


def test_no_gap_is_no_difference_and_the_largest_is_every_token() -> None:
    assert drawn_differently(0.0) == (0.0, 0.0)
    assert drawn_differently(np.pi) == pytest.approx((1.0, 1.0))


def test_perplexity_grows_by_the_exponential_of_nats() -> None:
    assert perplexity_ratio(0.0) == 1.0
    assert perplexity_ratio(np.log(48.0)) == pytest.approx(48.0)
    assert np.isfinite(perplexity_ratio(1e6))


@pytest.mark.parametrize(
    ("ratio", "said"),
    [
        (1.0, "1"),
        (1.084, "1.08"),
        (1.1, "1.1"),
        (3.44, "3.4"),
        (47.9, "48"),
        (9896.6, "9,897"),
        (1e9, "more than 1,000,000"),
    ],
)
def test_a_ratio_is_said_to_two_digits(ratio: float, said: str) -> None:
    assert times(ratio) == said


@pytest.mark.parametrize(
    ("share", "said"),
    [(1.0, "nearly every token"), (0.7, "7 tokens in 10"), (0.5, "1 token in 2"), (1 / 95, "1 token in 95"),
     (2e-4, "1 token in 5,000"), (0.0, "1 token in more than 10,000")],
)  # fmt: skip
def test_a_share_is_said_as_one_in_so_many(share: float, said: str) -> None:
    assert one_in(share) == said


@given(st.floats(1e-3, 1.0))
def test_what_is_said_is_the_share(share: float) -> None:
    """Within a third of it: a reciprocal below two and a half says what is more than that beside it."""
    words = one_in(share).replace("nearly every token", "10 tokens in 10").split()
    assert int(words[0]) / int(words[-1].replace(",", "")) == pytest.approx(share, rel=1 / 3)
