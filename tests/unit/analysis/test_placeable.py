"""A profile over the blocks has a place only where the change lies in blocks and coordinates can be compared."""

from dataclasses import replace

import numpy as np
import pytest

from spinal.documents.comparison import Comparison
from tests.support.fabricated import Pair, changed_pair

COORDINATES = ("block_swap", "block_swap_transport")


def moved_outside(pair: Pair) -> Pair:
    """The gap grows from node to node although no block differs, as where embeddings or head alone changed."""
    same = replace(
        pair.evidence,
        block_swap=np.zeros_like(pair.evidence.block_swap),
        block_swap_transport=np.zeros_like(pair.evidence.block_swap_transport),
        weight_change=np.zeros_like(pair.evidence.weight_change),
        weight_change_other={"embeddings": 0.0, "final_norm": 0.0, "head": 0.15},
        identical_blocks=np.ones(10, dtype=bool),
    )
    return replace(pair, evidence=same)


def in_another_basis(pair: Pair) -> Pair:
    """Coordinates differ by more than their length, and the output by hundredths of a radian."""
    ones = np.ones((32, 11))
    rising = ones * np.arange(11)
    other = replace(
        pair.evidence,
        function_gap={"last": 0.001 * rising, "all": 0.001 * rising},
        hidden_change={"last": 1.4 * ones, "all": 1.4 * ones},
        block_swap=np.full((32, 10), 1.2),
        frame_residual=0.001,
    )
    return replace(pair, evidence=other)


def reasons(found: Comparison) -> dict[str, str | None]:
    return {name: place.reason for name, place in found.localization.items()}


def test_where_no_block_changed_none_has_the_change() -> None:
    found = moved_outside(changed_pair()).compare()
    assert found.layers[-1].function_gap.last.value
    told = reasons(found)
    assert {told[name] for name in ("d_contraction", "d_transport", "function")} == {"no_block_changed"}
    assert all(place.peak is None for place in found.localization.values())
    assert not any("disagree on the place" in warning for warning in found.warnings)
    assert found.scores.footprint is None
    assert found.scores.reasons["footprint"] == "a_profile_has_no_place"


def test_one_changed_block_is_enough_for_a_place() -> None:
    pair = moved_outside(changed_pair())
    same = np.arange(10) != 4
    found = replace(pair, evidence=replace(pair.evidence, identical_blocks=same)).compare()
    assert found.localization["function"].peak is not None


@pytest.mark.parametrize("changed", [True, False])
def test_coordinates_are_not_placed_in_another_basis(changed: bool) -> None:
    pair = in_another_basis(changed_pair())
    if not changed:
        pair = replace(pair, evidence=replace(pair.evidence, frame_residual=0.5))
    found = pair.compare()
    assert found.frame is not None
    assert found.frame.changed is changed
    placed = {name: reasons(found)[name] == "frame_changed" for name in found.localization}
    assert {name for name, without in placed.items() if without} == (set(COORDINATES) if changed else set())
    assert (found.scores.footprint is None) is changed
