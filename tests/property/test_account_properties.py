"""Properties of accounts over all read-outs that stitched models can have."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spinal.analysis.accounts import CANCELLING_FROM, account, parts
from spinal.analysis.carried import contrast
from spinal.analysis.uncertainty import draw_shares
from spinal.documents.evidence import AccountEvidence

COUNT, BLOCKS = 12, 4
PLACES = ("embeddings", *(f"block {k}" for k in range(1, BLOCKS + 1)), "read-out")
SHARES, TERMINAL = draw_shares(COUNT, 200, 0), (3, 4)
ALL_REASONS = {None, "no_detectable_change", "total_not_significant", "cancelling"}
# Sizes that sums of a few doubles keep to 1e-12 of the largest.
values = arrays.arrays(np.float64, (COUNT, len(PLACES)), elements=st.floats(-1e3, 1e3, allow_subnormal=False))
masks = arrays.arrays(np.bool_, len(PLACES))


@st.composite
def evidence(draw: st.DrawFn) -> AccountEvidence:
    """Paths of two models that differ at some places: both begin and end at the same models."""
    same, first, between = draw(masks), draw(values), draw(values)
    if same.all():
        between = np.zeros_like(between)
    forward = np.where(same, 0.0, first)
    # What the backward path gives elsewhere it takes back at the last place that changed.
    apart = np.where(same, 0.0, between)
    if not same.all():
        apart[:, np.flatnonzero(~same)[-1]] -= apart.sum(axis=1)
    start = np.zeros((COUNT, 1))
    whole = np.cumsum(np.concatenate([start, forward], axis=1), axis=1)
    added = (forward + apart)[:, ::-1]
    backward = np.cumsum(np.concatenate([start, added], axis=1), axis=1)[:, ::-1]
    return AccountEvidence("margin", PLACES, np.arange(COUNT), whole, backward, same)


@given(evidence())
@settings(max_examples=60, deadline=None)
def test_parts_add_up_to_the_change_of_the_read_out_on_every_prompt(given_: AccountEvidence) -> None:
    change = given_.forward[:, -1] - given_.forward[:, 0]
    # Sums of a dozen doubles of up to 1e4.
    assert parts(given_).sum(axis=1) == pytest.approx(change, abs=1e-9)
    found = account(given_, SHARES, TERMINAL)
    total = sum(part.phi.value or 0.0 for part in found.places)
    assert found.total.value == pytest.approx(total, abs=1e-9)
    if found.reason is None:
        assert sum(part.share.value or 0.0 for part in found.places) == pytest.approx(1.0, abs=1e-9)


@given(evidence())
@settings(max_examples=60, deadline=None)
def test_identical_places_carry_exactly_nothing_and_every_null_has_a_reason(given_: AccountEvidence) -> None:
    found = account(given_, SHARES, TERMINAL)
    assert found.reason in ALL_REASONS
    for part in found.places:
        if part.identical:
            assert (part.phi.value, part.interaction) == (0.0, 0.0)
            assert part.phi.ci == (0.0, 0.0)
        assert (part.share.value is None) == (found.reason is not None) == (part.share.reason is not None)
    means = parts(given_).mean(axis=0)
    cancel = np.abs(means).sum() > CANCELLING_FROM * abs(means.sum())
    assert (found.cancelling is not None) == (found.reason == "cancelling")
    if found.reason is None:
        assert not cancel
    if found.reason == "cancelling":
        assert found.cancelling is not None
        first, second = (means[PLACES.index(place)] for place in found.cancelling)
        assert first * second < 0
        assert {first, second} == {means.max(), means.min()}


@given(evidence())
@settings(max_examples=40, deadline=None)
def test_a_change_turned_around_has_its_parts_turned_around_and_the_same_shares(given_: AccountEvidence) -> None:
    turned = replace(given_, forward=-given_.forward, backward=-given_.backward)
    one, other = account(given_, SHARES, TERMINAL), account(turned, SHARES, TERMINAL)
    assert one.reason == other.reason
    assert one.localization == other.localization
    for mine, theirs in zip(one.places, other.places, strict=True):
        assert theirs.phi.value == -(mine.phi.value or 0.0)
        assert (mine.share.value, mine.interaction) == (theirs.share.value, theirs.interaction)


@given(evidence(), st.permutations(range(COUNT)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_prompts_does_not_count(given_: AccountEvidence, order: list[int]) -> None:
    moved = replace(
        given_, prompts=given_.prompts[order], forward=given_.forward[order], backward=given_.backward[order]
    )
    one, other = account(given_, SHARES, TERMINAL), account(moved, SHARES, TERMINAL)
    for mine, theirs in zip(
        (one.total, *(p.phi for p in one.places)), (other.total, *(p.phi for p in other.places)), strict=True
    ):
        # Sums in another order.
        assert theirs.value == pytest.approx(mine.value, abs=1e-9)
        assert theirs.ci == pytest.approx(mine.ci, abs=1e-9)
    same = contrast(given_, moved, SHARES)
    assert same is not None
    assert {estimate.value for estimate in same.places.values()} == {0.0}
