"""The near end of an interval that decides on damage: it holds, and being worse never makes it better."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spinal.analysis.damage.bounds import interval, share_interval, standard_error
from spinal.analysis.damage.limits import MIN_PROMPTS
from spinal.analysis.damage.signals import level_of

Array = npt.NDArray[np.float64]
CHANGES = st.lists(st.floats(-3.0, 20.0), min_size=6, max_size=40).map(np.array)


def student(values: Array) -> tuple[float, float]:
    """The usual interval of a mean, as scipy computes it."""
    found = stats.t.interval(0.95, values.size - 1, values.mean(), stats.sem(values))
    return float(found[0]), float(found[1])


@pytest.mark.parametrize("n", [MIN_PROMPTS, 20, 64])
def test_without_outliers_it_is_the_interval_of_student(n: int) -> None:
    """Even values lie within 1.7 standard deviations, below the turning point of 20 prompts; five are never capped."""
    values = np.linspace(-1.0, 3.0, n)
    found = interval(values)
    assert found is not None
    low, high = student(values)
    assert found[1] == pytest.approx(high, rel=1e-12)
    assert found[0] == pytest.approx(low, rel=1e-9)
    turned = interval(-values, down=True)
    assert turned == (-found[1], -found[0])


@settings(max_examples=200, deadline=None)
@given(CHANGES)
def test_it_is_the_best_over_all_caps(values: Array) -> None:
    """Oracle: 2,000 caps tried one by one come within 1e-3 of the spread, and never above."""
    found = interval(values)
    assert found is not None
    t = stats.t.ppf(0.975, values.size - 1) / np.sqrt(values.size)
    caps = np.linspace(values.min(), values.max(), 2000)
    capped = np.minimum(values[None], caps[:, None])
    best = float((capped.mean(axis=1) - t * capped.std(axis=1, ddof=1)).max())
    scale = max(float(np.ptp(values)), 1e-9)
    assert best - 1e-9 * (1 + abs(best)) <= found[0] <= best + 1e-3 * scale
    assert found[0] <= values.mean() + 1e-12 * (1 + abs(values.mean()))


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.data())
def test_a_prompt_that_gets_worse_never_lowers_it(values: Array, data: st.DataObject) -> None:
    rise = np.array(data.draw(st.lists(st.floats(0.0, 100.0), min_size=values.size, max_size=values.size)))
    before, after = interval(values), interval(values + rise)
    assert before is not None
    assert after is not None
    # What 40 halvings and float64 leave of values up to 120.
    assert after[0] >= before[0] - 1e-9


def test_the_usual_interval_would_let_a_candidate_pass_by_being_worse() -> None:
    """32 prompts that are worse by 1.5 fail at 1; with one of them worse by 100 the usual lower end is below 0."""
    values = 1.5 + 0.1 * np.linspace(-1.0, 1.0, 32)
    worse = values.copy()
    worse[0] = 100.0
    assert student(values)[0] > 1.0 > 0.0 > student(worse)[0]
    for changes in (values, worse):
        found = interval(changes)
        assert found is not None
        assert found[0] > 1.4


@settings(max_examples=200, deadline=None)
@given(CHANGES, st.integers(2, 5), st.floats(0.0, 3.0))
def test_more_prompts_with_the_same_values_never_lower_it(values: Array, copies: int, limit: float) -> None:
    few, many = interval(values), interval(np.tile(values, copies))
    assert few is not None
    assert many is not None
    assert many[0] >= few[0] - 1e-9
    levels = [level_of(float(values.mean()), ci, 0.3 * limit, limit) for ci in (few, (many[0] + 1e-9, many[1]))]
    assert levels[0] != "damaged" or levels[1] == "damaged"


SHAPES = {
    "normal": (lambda g, n: g.standard_normal(n), 0.0),
    "few far worse": (lambda g, n: np.where(g.random(n) < 0.1, 5.0, 0.0) + 0.2 * g.standard_normal(n), 0.5),
    "exponential": (lambda g, n: g.exponential(size=n), 1.0),
    "few far better": (lambda g, n: -g.exponential(size=n), -1.0),
}


@pytest.mark.parametrize("n", [6, 16, 32, 64])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_lies_above_the_mean_in_one_audit_of_forty(shape: str, n: int) -> None:
    """1,000 samples: 2.5% have a standard deviation of .5%. Capping may cost a little where prompts are few (six of
    them all lie above a median once in 64 times). A long tail of better prompts breaks any interval of a mean: the
    usual one is above it in 12% of samples of 6, and this one no oftener than 2% more."""
    draw, mean = SHAPES[shape]
    generator = np.random.default_rng([n, len(shape)])
    samples = [draw(generator, n) for _ in range(1000)]
    found = [interval(sample) for sample in samples]
    above = np.mean([ci is not None and ci[0] > mean for ci in found])
    usual = np.mean([student(sample)[0] > mean for sample in samples])
    assert above <= (0.04 if shape != "few far better" else usual + 0.02)


def test_below_five_prompts_there_is_none() -> None:
    assert interval(np.ones(MIN_PROMPTS - 1)) is None
    assert interval(np.ones(MIN_PROMPTS)) == (1.0, 1.0)
    assert standard_error(np.ones(1)) is None
    assert share_interval(np.ones(4, dtype=bool), np.zeros(4, dtype=bool)) is None


def test_shares_that_all_turn_are_not_known_without_error() -> None:
    """Agresti and Min by hand: cells 32.5 and .5 of 34 prompts."""
    found = share_interval(np.ones(32, dtype=bool), np.zeros(32, dtype=bool))
    assert found is not None
    value = -32.0 / 34.0
    reach = 1.96 * np.sqrt(33.0 - 34.0 * value**2) / 34.0
    assert value - reach < -1.0, "what no share can be is cut off"
    assert found == (-1.0, pytest.approx(value + reach))
    assert -0.9 < found[1] < -0.8


@pytest.mark.parametrize(("lost", "gained"), [(0.1, 0.1), (0.5, 0.05), (0.02, 0.3)])
def test_the_interval_of_a_share_covers(lost: float, gained: float) -> None:
    """32 prompts, 2,000 samples: at least 92% (a standard deviation of .6%)."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        kind = generator.random(32)
        before = np.where(kind < lost, True, np.where(kind < lost + gained, False, kind < 0.8))
        after = np.where(kind < lost, False, np.where(kind < lost + gained, True, kind < 0.8))
        found = share_interval(before, after)
        assert found is not None
        inside += found[0] <= gained - lost <= found[1]
    assert inside / 2000 >= 0.92


@settings(max_examples=100, deadline=None)
@given(st.integers(5, 64), st.data())
def test_one_more_answer_that_does_not_end_never_raises_the_share(n: int, data: st.DataObject) -> None:
    before = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    after = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    if not (before & after).any():
        return
    fewer = after.copy()
    fewer[np.flatnonzero(before & after)[0]] = False
    one, other = share_interval(before, after), share_interval(before, fewer)
    assert one is not None
    assert other is not None
    # Only an end that is far from every limit moves the other way: there a first change widens what was no change.
    assert other[1] <= one[1] + 1e-12 or one[1] > -0.25
