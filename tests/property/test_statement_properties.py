"""Properties of the sentence: what is planted is found, what is flat has no place, what is identical is never named."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spinal.analysis.statements import statements
from spinal.analysis.statements.shape import bands, flat_need, outliers
from spinal.analysis.statements.words import runs
from spinal.documents.comparison import Statement
from tests.support.contents import content

EVEN = 0.05
# The first example of a depth makes a whole comparison, so that none has a deadline.
scatters = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).uniform(1 - EVEN, 1 + EVEN, 60))


@st.composite
def changed_sets(draw: st.DrawFn) -> tuple[int, list[int]]:
    """A depth, and the blocks of it that changed: at least one."""
    depth = draw(st.integers(2, 40))
    return depth, sorted(draw(st.sets(st.integers(1, depth), min_size=1)))


def of_block_swap(profile: np.ndarray, changed: list[int]) -> list[Statement]:
    unchanged = [block for block in range(1, profile.size + 1) if block not in changed]
    return [one for one in statements(content(profile, unchanged=unchanged)) if one.about == "block_swap"]


def profile_of(depth: int, changed: list[int], values: np.ndarray) -> np.ndarray:
    profile = np.zeros(depth)
    profile[np.array(changed) - 1] = values[: len(changed)]
    return profile


def named_blocks(found: Statement) -> set[int]:
    return {block for low, high in found.blocks for block in range(low, high + 1)}


@settings(max_examples=60, deadline=None)
@given(changed_sets(), arrays.arrays(np.float64, 40, elements=st.floats(0.0, 1e3, allow_subnormal=False)))
def test_identical_blocks_are_never_named_and_80_percent_is_80_percent(
    which: tuple[int, list[int]], values: np.ndarray
) -> None:
    depth, changed = which
    profile = profile_of(depth, changed, values)
    found = of_block_swap(profile, changed)
    assert found
    outlying: set[int] = set()
    for one in found:
        assert named_blocks(one) <= set(changed)
        if one.kind == "outlier":
            outlying = named_blocks(one)
        if one.kind == "band":
            rest = profile[[block - 1 for block in changed if block not in outlying]].sum()
            held = profile[[block - 1 for block in named_blocks(one) - outlying]].sum()
            # 1e-9: sums of at most forty doubles.
            assert held >= 0.8 * rest * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), scatters)
def test_a_flat_profile_has_neither_outlier_nor_band(depth: int, scatter: np.ndarray) -> None:
    found = of_block_swap(scatter[:depth], list(range(1, depth + 1)))
    assert [one.kind for one in found] == ["spread"]
    assert f"would need {flat_need(depth)} for 80%" in (found[0].null or "")


@settings(deadline=None)
@given(st.integers(5, 60), scatters, st.data())
def test_outliers_are_those_that_were_planted(count: int, scatter: np.ndarray, data: st.DataObject) -> None:
    planted = data.draw(st.sets(st.integers(0, count - 1), max_size=(count - 1) // 4))
    profile = scatter[:count].copy()
    profile[sorted(planted)] *= 20.0
    assert set(outliers(profile).places) == planted


@given(st.integers(1, 4), scatters)
def test_among_fewer_than_five_places_nothing_stands_out(count: int, scatter: np.ndarray) -> None:
    profile = scatter[:count].copy()
    profile[0] *= 100.0
    assert outliers(profile).places == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(2, 15), st.integers(1, 15), st.integers(0, 10), st.integers(0, 10), scatters)
def test_two_runs_with_identical_blocks_between_are_two_bands(
    first: int, longer: int, gap: int, before: int, after: int, scatter: np.ndarray
) -> None:
    # Neither holds 80% alone, so that only both together say where the change sits.
    second = min(longer, max(1, 3 * first))
    first = min(first, 3 * second)
    early = range(before + 1, before + first + 1)
    late = range(early[-1] + gap + 1, early[-1] + gap + second + 1)
    changed = [*early, *late]
    depth = late[-1] + after
    found = of_block_swap(profile_of(depth, changed, scatter), changed)
    alone = max(first, second) * (1 - EVEN) >= 0.8 * (first + second)
    if alone:
        return
    assert [one.kind for one in found] == ["band"]
    windows = found[0].blocks
    assert len(windows) == 2
    for (low, high), run in zip(windows, (early, late), strict=True):
        assert run[0] <= low <= high <= run[-1]
    assert set(changed) == named_blocks(found[0]) or len(named_blocks(found[0])) < 0.8 * flat_need(len(changed))


@given(st.integers(2, 40), scatters, st.data())
def test_a_run_among_blocks_that_barely_change_is_a_band(depth: int, scatter: np.ndarray, data: st.DataObject) -> None:
    length = data.draw(st.integers(1, max(1, depth // 3)))
    start = data.draw(st.integers(1, depth - length + 1))
    profile = 1e-4 * scatter[:depth]
    profile[start - 1 : start - 1 + length] *= 1e4
    found = bands(profile, range(1, depth + 1), [(1, depth)])
    assert not found.spread or depth < 5
    if len(found.windows) == 1:
        low, high = found.windows[0]
        assert start <= low <= high <= start + length - 1
        assert high - low + 1 >= 0.8 * length * (1 - 2 * EVEN)


@settings(deadline=None)
@given(st.integers(5, 40), scatters, st.integers(-30, 30))
def test_the_unit_of_a_profile_says_nothing(count: int, scatter: np.ndarray, exponent: int) -> None:
    profile = scatter[:count] ** 8
    # Powers of two scale doubles exactly.
    scaled = profile * 2.0**exponent
    assert outliers(scaled).places == outliers(profile).places
    assert bands(scaled, range(count), [(0, count - 1)]) == bands(profile, range(count), [(0, count - 1)])


@given(st.sets(st.integers(1, 60)))
def test_runs_hold_the_blocks_and_no_other(blocks: set[int]) -> None:
    found = runs(blocks)
    assert {block for low, high in found for block in range(low, high + 1)} == blocks
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(found))
