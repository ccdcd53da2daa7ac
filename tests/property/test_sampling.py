"""The order that samples are taken in: a start of it is a sample in which every category has its share."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spinal.prompts.sampling import FLOOR, categories_of, sample_order, take

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@st.composite
def sets(draw: st.DrawFn) -> list[str]:
    """Categories of the prompts of a set, mixed."""
    names = [chr(ord("a") + kind) for kind, size in enumerate(draw(SIZES)) for _ in range(size)]
    draw(st.randoms(use_true_random=False)).shuffle(names)
    return names


@settings(deadline=None)
@given(kinds=sets())
def test_every_start_of_the_order_is_a_stratified_sample(kinds: list[str]) -> None:
    order = sample_order(len(kinds), kinds, "stratified")
    assert sorted(order.tolist()) == list(range(len(kinds)))
    sizes = Counter(kinds)
    floor = sum(min(FLOOR, size) for size in sizes.values())
    for n in range(1, len(kinds) + 1):
        taken = Counter(kinds[place] for place in order[:n])
        if n >= len(sizes):
            assert set(taken) == set(sizes)
        if n >= floor:
            assert all(taken[kind] >= min(FLOOR, size) for kind, size in sizes.items())
        for kind, size in sizes.items():
            # Beyond the floors no category took a prompt while another was further behind its share.
            if taken[kind] > FLOOR:
                assert all(
                    taken[other] == sizes[other]
                    or (2 * taken[kind] - 1) / size <= (2 * taken[other] + 1) / sizes[other]
                    for other in sizes
                )


@settings(deadline=None)
@given(kinds=sets())
def test_without_floors_in_the_way_counts_are_within_one_of_the_shares(kinds: list[str]) -> None:
    sizes = Counter(kinds)
    order = sample_order(len(kinds), kinds, "stratified")
    for n in range(1, len(kinds) + 1):
        shares = {kind: n * size / len(kinds) for kind, size in sizes.items()}
        taken = Counter(kinds[place] for place in order[:n])
        if all(share >= FLOOR for share in shares.values()):
            # Sainte-Lague may leave the quota where there are many parties, by less than two with six.
            assert all(abs(taken[kind] - share) < 2.0 for kind, share in shares.items())


@settings(deadline=None)
@given(kinds=sets())
def test_how_a_category_is_spelled_changes_nothing(kinds: list[str]) -> None:
    order = sample_order(len(kinds), kinds, "stratified").tolist()
    assert order == sample_order(len(kinds), [f"{chr(200 - ord(kind))}!" for kind in kinds], "stratified").tolist()
    assert order == sample_order(len(kinds), [None if kind == "a" else kind for kind in kinds], "stratified").tolist()


@settings(deadline=None)
@given(kinds=sets(), n=st.integers(0, 80), data=st.data())
def test_a_smaller_sample_lies_within_a_larger_one(kinds: list[str], n: int, data: st.DataObject) -> None:
    order = sample_order(len(kinds), kinds, "stratified")
    eligible = np.array(data.draw(st.lists(st.booleans(), min_size=len(kinds), max_size=len(kinds))))
    smaller, larger = take(order, eligible, n), take(order, eligible, n + 3)
    assert set(smaller) <= set(larger) <= set(np.flatnonzero(eligible))
    assert len(smaller) == min(n, eligible.sum())
    assert smaller.tolist() == sorted(smaller.tolist())


@given(count=st.integers(1, 50), n=st.integers(0, 60))
def test_the_first_ones_are_the_first_ones(count: int, n: int) -> None:
    order = sample_order(count, ["b", "a"] * (count // 2) + ["b"] * (count % 2), "first")
    assert take(order, None, n).tolist() == list(range(min(n, count)))


def test_the_order_is_fixed() -> None:
    """Samples are part of what a profile fixes: another order is another profile."""
    assert sample_order(12, (), "stratified").tolist() == [3, 11, 0, 5, 9, 7, 10, 1, 6, 2, 8, 4]
    kinds = ["x"] * 9 + ["y"] * 3
    assert sample_order(12, kinds, "stratified").tolist() == [3, 11, 0, 9, 5, 10, 7, 1, 6, 2, 8, 4]


def test_a_language_behind_the_first_ones_is_looked_at() -> None:
    prompts = [f"\n\nHuman: why is it {n}?\n\nAssistant:" for n in range(64)]
    prompts += [f"\n\nHuman: почему {n}?\n\nAssistant:" for n in range(8)]
    kinds = categories_of(prompts)
    assert Counter(kinds) == {"Latin script": 64, "Cyrillic script": 8}
    order = sample_order(72, kinds, "stratified")
    for n, least in ((8, 4), (32, 4), (64, 7)):
        assert (take(order, None, n) >= 64).sum() >= least


def test_scripts_are_told_by_letters() -> None:
    texts = (
        "なぜ空は青いのですか",
        "为什么天空是蓝色的",
        "왜 하늘은 파란색인가요",
        "ＷＨＹ？",
        "1 + 1 = 2",
        "γιατί x",
        "لماذا",
    )
    assert categories_of(texts) == (
        "Hiragana script", "CJK script", "Hangul script", "Latin script", None, "Greek script", "Arabic script",
    )  # fmt: skip
