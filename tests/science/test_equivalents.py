"""Pairs whose truth is known: another writing of the same function, and changes that no tensor of a block tells."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from spinal.analysis.frames import SAME_FUNCTION_RAD
from spinal.audit import Ports, Traced, compare_traces, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
from tests.support.equivalents import (
    Weights,
    permuted,
    rewritten,
    untied,
    with_basis_rotated,
    with_gains,
    with_residual_times,
)
from tests.support.places import EXAMPLES

PROFILE = MeasurementProfile(
    max_tokens=48, lens_positions=8, swap_prompts=16, continuation_prompts=8, bootstrap_draws=200, stitch_prompts=8,
    stitch_tokens=48,
)  # fmt: skip
KNOWN = builtin_prompts("hh-harmless-64")
PROMPTS = PromptSet(KNOWN.prompts[:48], KNOWN.continuations[:48])
"""A rotation of 96 dimensions is fitted on the rows of half of them."""
EVERY = tuple(range(1, 25))
Audit = Callable[[Path], Comparison]


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untied(EXAMPLES / "checkpoints" / "sft", tmp_path_factory.mktemp("sft") / "sft")


@pytest.fixture(scope="module")
def audited(sft: Path, ports: Ports) -> Audit:
    """``audited(folder)`` -> the comparison of ``sft`` with it."""

    @cache
    def reference() -> Traced:
        return trace_checkpoint(resolve_reference(str(sft), roots=None), PROMPTS, PROFILE, ports=ports)

    def run(folder: Path) -> Comparison:
        candidate = trace_checkpoint(resolve_reference(str(folder), roots=None), PROMPTS, PROFILE, ports=ports)
        return compare_traces(reference(), candidate, PROFILE, ports=ports, prompts=PROMPTS)

    return run


def disturbed(folder: Path, target: Path, holds: Callable[[str], bool], share: float) -> Path:
    """With noise of that share of its own norm in every tensor whose name ``holds``."""
    generator = torch.Generator().manual_seed(4)

    def change(weights: Weights, _: dict[str, Any]) -> Weights:
        def noisy(tensor: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            return tensor + share * noise * tensor.norm() / noise.norm()

        return {name: noisy(tensor) if holds(name) else tensor for name, tensor in weights.items()}

    return rewritten(folder, target, change)


def placed(result: Comparison) -> dict[str, str | None]:
    """Reasons by locator; None where a profile has a place."""
    return {name: where.reason for name, where in result.localization.items() if name != "weights"}


def carrying(result: Comparison) -> list[str]:
    """Places that carry anything of the change of KL."""
    return [part.place for part in result.accounts["kl"].places if part.phi.value]


def test_permuted_neurons_and_heads_have_no_place(sft: Path, audited: Audit, tmp_path: Path) -> None:
    result = audited(permuted(sft, tmp_path / "permuted", 5))
    assert set(placed(result).values()) <= {"within_rounding", "no_detectable_change"}
    assert placed(result)["block_swap"] == placed(result)["function"] == "within_rounding"
    assert result.accounts["kl"].reason == "within_rounding"
    assert result.unchanged_blocks == (), "the tensors are others"
    assert result.frame is not None
    assert not result.frame.changed


def test_a_real_change_below_a_permutation_is_found(sft: Path, audited: Audit, tmp_path: Path) -> None:
    one = disturbed(sft, tmp_path / "one", lambda name: ".layers.11." in name, 0.02)
    result = audited(permuted(one, tmp_path / "permuted", 5))
    assert result.localization["block_swap"].peak == 12


def test_gains_that_are_made_up_for_change_nothing(sft: Path, audited: Audit, tmp_path: Path) -> None:
    """A factor of eight is exact in binary."""
    result = audited(with_gains(sft, tmp_path / "gains", 8.0))
    assert set(placed(result).values()) == {"no_detectable_change"}
    assert all(layer.block_swap.value in (None, 0.0) for layer in result.layers)


@pytest.mark.parametrize(("kind", "reason"), [("twice", "frame_changed"), ("rotated", "within_rounding")])
def test_another_frame_is_told_from_a_change(kind: str, reason: str, sft: Path, audited: Audit, tmp_path: Path) -> None:
    """A rotation is rounding; a larger stream makes the norms' epsilon count for less, which can be measured."""
    written = {"twice": lambda: with_residual_times(sft, tmp_path / kind, 2.0),
               "rotated": lambda: with_basis_rotated(sft, tmp_path / kind, 3)}[kind]()  # fmt: skip
    result = audited(written)
    assert result.frame is not None
    assert result.frame.changed
    assert result.frame.residual is not None
    assert result.frame.residual < 0.01
    assert result.frame.gap is not None
    assert result.frame.gap < 1e-2
    assert result.accounts["kl"].reason == reason
    hidden = result.damage.signals["hidden_change"].value
    assert hidden is not None
    assert hidden > 0.9, "coordinates alone would call it wrecked"


@pytest.mark.parametrize("name", ["dpo-short", "dpo-overoptimised", "dpo-broken"])
def test_training_changes_no_frame(
    name: str, history_checkpoint: Callable[[str], Path], audited: Audit, tmp_path: Path
) -> None:
    result = audited(untied(history_checkpoint(name), tmp_path / name))
    assert result.frame is not None
    assert not result.frame.changed
    assert result.frame.gap is not None
    # Outputs that lie apart are no matter of the basis: no map is looked for.
    assert (result.frame.residual is None) == (result.frame.gap >= SAME_FUNCTION_RAD)
    assert placed(result)["block_swap"] is None
    assert result.accounts["kl"].reason is None


@pytest.mark.parametrize(("part", "place"), [("embed_tokens", "embeddings"), ("lm_head", "read-out")])
def test_a_change_outside_the_blocks_leaves_every_block_unchanged(
    part: str, place: str, sft: Path, audited: Audit, tmp_path: Path
) -> None:
    result = audited(disturbed(sft, tmp_path / part, lambda name: part in name, 0.15))
    assert result.unchanged_blocks == EVERY
    assert placed(result)["block_swap"] == "no_detectable_change"
    assert result.settings == ()
    assert carrying(result) == [place]


@pytest.mark.parametrize(
    ("member", "value", "key"),
    [
        ("rope_parameters", {"rope_theta": 500.0, "rope_type": "default"}, "rope_parameters.rope_theta"),
        ("hidden_act", "relu", "hidden_act"),
    ],
)
def test_equal_weights_under_another_setting_are_another_model(
    member: str, value: Any, key: str, sft: Path, audited: Audit, tmp_path: Path
) -> None:
    result = audited(rewritten(sft, tmp_path / "other", lambda weights, _: weights, **{member: value}))
    assert result.unchanged_blocks == ()
    assert placed(result)["block_swap"] is None
    assert all(layer.block_swap.value is not None and layer.block_swap.value > 0.01 for layer in result.layers[1:])
    assert [(each.key, each.computes) for each in result.settings] == [(key, True)]
    assert carrying(result) == ["configuration"]


def test_template_and_generation_are_named_and_compute_nothing(sft: Path, audited: Audit, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sft, tmp_path / "other"))
    for name, members in (
        ("generation_config.json", {"temperature": 0.3}),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}),
    ):
        path = other / name
        path.write_text(json.dumps(json.loads(path.read_text()) | members))
    result = audited(other)
    assert [(each.part, each.key, each.computes) for each in result.settings] == [
        ("generation", "temperature", False),
        ("chat template", "default", False),
    ]
    assert result.unchanged_blocks == EVERY
    assert set(placed(result).values()) == {"no_detectable_change"}
