"""Properties of the drawdown over all series of members that share prompts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spinal.analysis.series.detectors import Falling, detect
from spinal.analysis.series.drawdown import Drawdown, drawdown
from spinal.analysis.series.thresholds import threshold
from spinal.documents.series import Series
from spinal.policy.series import assess
from tests.support.series import run

seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(6, 24)
LEAST = 0.15


def flat(seed: int, members: int, prompts: int = 48) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return 2.0 * generator.standard_normal(prompts) + 0.15 * generator.standard_normal((members, prompts))


def found_in(values: np.ndarray, least: float = LEAST) -> Drawdown:
    return drawdown(values, threshold(len(values), 4), least)


def same(one: Drawdown, other: Drawdown, scale: float = 1.0) -> None:
    assert one.falls == other.falls
    assert one.best.tolist() == other.best.tolist()
    assert one.beyond.tolist() == other.beyond.tolist()
    # Sums of 48 doubles of up to a hundred.
    np.testing.assert_allclose(other.distance, one.distance, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.fall, scale * one.fall, rtol=1e-6, atol=1e-9 * scale)


@given(seeds, lengths, st.floats(-50.0, 50.0))
@settings(max_examples=60, deadline=None)
def test_a_constant_added_to_every_prompt_of_all_members_changes_nothing(seed: int, n: int, shift: float) -> None:
    values = flat(seed, n)
    values[n // 2 :] += 0.4
    same(found_in(values), found_in(values + shift))


@given(seeds, lengths, st.floats(0.05, 20.0))
@settings(max_examples=60, deadline=None)
def test_another_unit_changes_nothing_but_the_numbers(seed: int, n: int, scale: float) -> None:
    values = flat(seed, n)
    values[n // 2 :] += 0.4
    same(found_in(values), found_in(scale * values, scale * LEAST), scale)


@given(seeds, lengths, st.data())
@settings(max_examples=80, deadline=None)
def test_a_planted_fall_is_known_one_member_later_and_lies_between_onset_and_worse(
    seed: int, n: int, data: st.DataObject
) -> None:
    at = data.draw(st.integers(2, n - 2))
    values = flat(seed, n)
    values[at:] += 0.6
    (fall,) = found_in(values).falls
    assert fall.known in (at, at + 1)
    assert fall.onset < at
    assert fall.onset < fall.worse_from <= at


@given(seeds, lengths, st.data(), st.floats(0.5, 50.0))
@settings(max_examples=60, deadline=None)
def test_one_bad_member_alone_is_no_fall(seed: int, n: int, data: st.DataObject, size: float) -> None:
    values = flat(seed, n)
    at = data.draw(st.integers(0, n - 1))
    values[at] += size
    found = found_in(values)
    assert found.falls == ()
    assert not found.beyond[np.arange(n) != at].any()


@given(seeds, lengths, st.data())
@settings(max_examples=40, deadline=None)
def test_a_member_without_the_signal_might_as_well_not_be_there(seed: int, n: int, data: st.DataObject) -> None:
    values = flat(seed, n)
    values[n // 2 :] += 0.6
    hole = data.draw(st.integers(0, n))
    with_hole = np.insert(values, hole, np.nan, axis=0)
    whole, holed = found_in(values), drawdown(with_hole, threshold(n, 4), LEAST)
    places = np.delete(np.arange(n + 1), hole)
    assert holed.sigma == whole.sigma
    np.testing.assert_array_equal(holed.fall[places], whole.fall)
    assert [places[fall.known] for fall in whole.falls] == [fall.known for fall in holed.falls]


@given(seeds, lengths)
@settings(max_examples=40, deadline=None)
def test_better_for_every_prompt_is_never_a_fall(seed: int, n: int) -> None:
    values = flat(seed, n) - 0.5 * np.arange(n)[:, None]
    assert found_in(values, 0.0).falls == ()


@given(seeds, lengths)
@settings(max_examples=30, deadline=None)
def test_the_order_of_prompts_does_not_matter(seed: int, n: int) -> None:
    values = flat(seed, n)
    values[n // 2 :] += 0.4
    order = np.random.default_rng(seed).permutation(values.shape[1])
    same(found_in(values), found_in(values[:, order]))


@given(seeds, lengths)
@settings(max_examples=30, deadline=None)
def test_lows_left_out_change_no_alarm(seed: int, n: int) -> None:
    values = flat(seed, n)
    values[n // 2 :] += 0.3
    given_: dict[str, dict[str | None, Falling]] = {"nll": {None: Falling(values, LEAST)}}
    whole, quick = detect(given_, {}), detect(given_, {}, lows_everywhere=False)
    assert whole.drawdowns["nll"][None].falls == quick.drawdowns["nll"][None].falls
    assert whole.drawdowns["nll"][None].beyond.tolist() == quick.drawdowns["nll"][None].beyond.tolist()


@given(st.permutations(range(8)), seeds)
@settings(max_examples=15, deadline=None)
def test_the_order_in_which_members_come_does_not_matter(order: list[int], seed: int) -> None:
    values = flat(seed, 8)
    values[5:] += 0.5
    members = run({"nll_change": values - values[0]})
    found: Series = assess("local:base", [members[place] for place in order])
    assert found == assess("local:base", members)
    assert found.status == "destabilised"


@given(seeds, st.floats(0.0, 3.0))
@settings(max_examples=30, deadline=None)
def test_a_larger_least_effect_never_adds_an_alarm(seed: int, least: float) -> None:
    values = flat(seed, 12)
    values[6:] += 0.5
    small = Falling(values, LEAST)
    found = [
        len(detect({"nll": {None: of}}, {}).drawdowns["nll"][None].falls)
        for of in (small, replace(small, least=LEAST + least))
    ]
    assert found[1] <= found[0] == pytest.approx(1)
