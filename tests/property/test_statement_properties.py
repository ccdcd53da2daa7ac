"""Properties of the sentence: what is planted is found, what is flat has no place, what is identical is never named."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spinal.analysis.statements import statements
from spinal.analysis.statements.shape import bands, flat_need, outliers
from spinal.analysis.statements.words import runs
from spinal.documents.account import CANCELLING, FRAME_CHANGED, NOT_SIGNIFICANT, WITHIN_ROUNDING
from spinal.documents.comparison import Comparison, Frame, Statement
from tests.support.contents import account, content, parts, setting

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


@given(st.integers(8, 40), scatters)
def test_what_is_little_more_than_nothing_stands_out_of_nothing(count: int, scatter: np.ndarray) -> None:
    profile = 1e-4 * scatter[:count]
    profile[[0, 3]] = 1.0, 0.03
    assert outliers(profile).places == (0,)


@given(st.integers(20, 40), scatters)
def test_a_dip_parts_no_bands(depth: int, scatter: np.ndarray) -> None:
    profile = scatter[:depth].copy()
    profile[8:12] *= 0.2
    found = bands(profile, range(1, depth + 1), [(1, depth)])
    assert len(found.windows) == 1
    assert found.spread


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


SETTINGS = (
    setting("rope_theta", "10000.0", "500.0"),
    setting("new_key", None, "x" * 500),
    setting("temperature", "0.7", "1.0", "generation", computes=False),
    setting("chat_template", "a", "b", "chat template", computes=False),
)
OUTSIDE = {"embeddings": "input embeddings", "final_norm": "final norm", "head": "unembedding"}
REASONS = (None, None, None, CANCELLING, FRAME_CHANGED, NOT_SIGNIFICANT, WITHIN_ROUNDING, "one_prompt", "not_measured")


@st.composite
def pairs(draw: st.DrawFn) -> Comparison:
    """Any comparison: each kind of change, with or without accounts, for any reason that there is none."""
    depth, changed = draw(changed_sets())
    identical = draw(st.booleans())
    values = np.array(draw(st.lists(st.sampled_from([0.0, 1e-7, 0.01, 1.0, 30.0]), min_size=depth, max_size=depth)))
    values[[block - 1 for block in range(1, depth + 1) if identical or block not in changed]] = 0.0
    unchanged = [block for block in range(1, depth + 1) if identical or block not in changed]
    phi = np.where(values > 0.0, values * draw(st.sampled_from([-1.0, 0.001, 1.0])), 0.0)
    more = {"configuration": 0.2} if draw(st.booleans()) else {}
    accounts = {
        name: account(
            parts(phi, draw(st.sampled_from([0.0, 0.3])), draw(st.sampled_from([0.0, 0.3])), **more),
            read_out=name,
            identical=[f"block {block}" for block in unchanged],
            reason=draw(st.sampled_from(REASONS)),
            cancelling=("block 1", "block 2"),
        )
        for name in ("kl", "margin", "refusal")
        if draw(st.booleans())
    }
    return content(
        values,
        unchanged=unchanged if draw(st.booleans()) else (),
        outside=draw(
            st.dictionaries(st.sampled_from(["embeddings", "final_norm", "head"]), st.sampled_from([0.0, 0.1]))
        ),
        settings=draw(st.lists(st.sampled_from(SETTINGS), unique=True)),
        accounts=accounts,
        control_accounts=accounts if draw(st.booleans()) else {},
        noise_accounts=accounts if draw(st.booleans()) else {},
        reason=draw(st.sampled_from([None, None, None, WITHIN_ROUNDING, FRAME_CHANGED, "checkpoint_not_at_hand"])),
        frame=draw(st.sampled_from([None, Frame(changed=True, residual=0.01, gap=None)])),
        identical=identical,
    )


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_of_any_pair_something_is_said_and_nothing_is_left_out(pair: Comparison) -> None:
    found = statements(pair)
    assert found
    whole = " ".join(f"{one.text} {one.null or ''}" for one in found)
    assert "None" not in whole
    assert "nan" not in whole.split()
    for one in found:
        assert one.text[0] == one.text[0].upper()
        assert one.text.endswith(".")
        assert one.null or one.kind not in ("outlier", "band", "spread")
    for key in pair.settings:
        assert key.part != "configuration" or key.key in whole, "a setting that differs is never silent"
    for name, words in OUTSIDE.items():
        if pair.weight_change_other.get(name) and not pair.identical:
            assert whole.count(f"the {words} (by") == 1
    if pair.settings or any(pair.weight_change_other.values()):
        assert "no change to place" not in whole
        assert not [one for one in found if one.text.startswith("No block") and "outside the blocks" not in one.text]
    assert "validated" not in whole
