"""When the frame changed: all three conditions, each alone not enough."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spinal.analysis.frames import frame_of
from spinal.documents.evidence import PairEvidence
from tests.support.fabricated import changed_pair

LIMITS = {"hidden_change": 0.4, "block_swap_mean": 0.25}


def evidence(*, gap: float = 0.01, hidden: float = 1.0, swap: float = 1.0, residual: float = 0.01) -> PairEvidence:
    """Of a changed frame, with those values everywhere."""
    ones = np.ones((32, 11))
    return replace(
        changed_pair().evidence,
        function_gap={"last": gap * ones, "all": gap * ones},
        hidden_change={"last": hidden * ones, "all": hidden * ones},
        block_swap=np.full((32, 10), swap),
        frame_residual=residual,
    )


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({}, True),
        ({"swap": 0.1}, True),
        ({"hidden": 0.1}, True),
        ({"swap": 0.1, "hidden": 0.1}, False),
        ({"gap": 0.05}, False),
        ({"gap": 0.049}, True),
        ({"residual": 0.05}, False),
        ({"residual": float("nan")}, False),
        ({"gap": float("nan")}, False),
        ({"hidden": float("nan"), "swap": float("nan")}, False),
        ({"hidden": 0.4, "swap": 0.0}, True),
        ({"hidden": 0.0, "swap": 0.25}, True),
    ],
)
def test_a_frame_changed_where_everything_says_so(values: dict[str, float], changed: bool) -> None:
    assert frame_of(evidence(**values), **LIMITS).changed is changed


def test_only_the_last_node_counts() -> None:
    """Inside, coordinates may differ by any amount and agree again."""
    found = evidence()
    gap = np.full((32, 11), 2.0)
    gap[:, -1] = 0.01
    assert frame_of(replace(found, function_gap={"last": gap, "all": gap}), **LIMITS).changed


def test_the_comparison_carries_frame_settings_and_unchanged_blocks() -> None:
    same = np.zeros(10, dtype=bool)
    same[[0, 4]] = True
    result = replace(changed_pair(), evidence=replace(evidence(), identical_blocks=same)).compare()
    assert result.frame is not None
    assert result.frame.changed
    assert result.frame.model_dump() == {"changed": True, "residual": 0.01, "gap": pytest.approx(0.01)}
    assert result.unchanged_blocks == (1, 5)
    assert result.settings == ()


def test_the_gap_of_one_last_token_has_no_interval() -> None:
    """Every prompt ends with the same token: its embedding is one value, whatever prompts are drawn."""
    pair = changed_pair()
    known = pair.evidence.function_gap
    constant = known["last"].copy()
    constant[:, 0] = 0.125 + 1e-8 * np.arange(32)
    result = replace(pair, evidence=replace(pair.evidence, function_gap=known | {"last": constant})).compare()
    first: Any = result.layers[0].function_gap
    assert first.last.value == pytest.approx(0.125, abs=1e-6)
    assert (first.last.ci, first.last.se, first.last.mde) == (None, None, None)
    assert first.last.reason == "same_for_every_prompt"
    assert first.all.ci is not None
    assert result.layers[1].function_gap.last.ci is not None
