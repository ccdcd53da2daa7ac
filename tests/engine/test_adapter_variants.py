"""Every type and setting of adapter that is measured: the merged model computes what PEFT computes, the base stays."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spinal.checkpoints.adapter import MEASURED
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.load import load, load_pair
from spinal.profile import MeasurementProfile
from tests.engine.adapter_variants import IDS, VARIANTS, open_base, own_logits, save_adapter


def resolved(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def beside(base: Path, folder: Path) -> Path:
    """``folder``/base is ``base``, so that an adapter in ``folder`` finds it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base").symlink_to(base)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_merged_logits_are_those_of_peft_and_the_base_stays(
    name: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    family, config = VARIANTS[name]
    base = tiny(family)
    folder = save_adapter(open_base(base), config(), beside(base, tmp_path / "adapter"))
    expected = own_logits(open_base(base), folder)
    before = {key: tensor.clone() for key, tensor in open_base(base).state_dict().items()}
    profile = MeasurementProfile()
    inspect(resolved(folder))
    with torch.inference_mode():
        ours, theirs = load_pair(resolved(base), resolved(folder), profile, "cpu")
        alone = load(resolved(folder), profile, "cpu")
        plain, *found = (side.model(input_ids=IDS).logits for side in (ours, theirs, alone))
    # Merging in float32 rounds each weight once and changes the order of sums: 1e-5 of logits around 10.
    for logits in found:
        torch.testing.assert_close(logits, expected, rtol=0.0, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-2
    assert ours.model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.model.state_dict().items())


def test_every_measured_type_is_proven() -> None:
    assert {config().peft_type.value for _, config in VARIANTS.values()} == MEASURED


def per_expert(folder: Path, base: Path) -> torch.Tensor:
    """A LoRA of each expert of a Mixtral by itself, as older releases save it; the logits (1, T, V) that it makes."""
    model = open_base(base)
    weights = model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    torch.manual_seed(3)
    for layer in range(model.config.num_hidden_layers):
        inner, outer = (weights[f"model.layers.{layer}.mlp.experts.{name}_proj"] for name in ("gate_up", "down"))
        for expert in range(model.config.num_local_experts):
            gate, up = inner[expert].chunk(2)
            for name, weight in (("w1", gate), ("w2", outer[expert]), ("w3", up)):
                a, b = torch.randn(4, weight.shape[1]) * 0.1, torch.randn(weight.shape[0], 4) * 0.1
                path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors |= {f"{path}.lora_A.weight": a, f"{path}.lora_B.weight": b}
                weight += 2.0 * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    known = {"r": 4, "lora_alpha": 8, "target_modules": ["w1", "w2", "w3"], "base_model_name_or_path": "base"}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM"} | known))
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def test_experts_that_were_adapted_one_by_one_are_merged_into_their_common_tensor(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    folder = beside(tiny("mixtral"), tmp_path / "adapter")
    expected = per_expert(folder, tiny("mixtral"))
    inspect(resolved(folder))
    with torch.inference_mode():
        found = load(resolved(folder), MeasurementProfile(), "cpu").model(input_ids=IDS).logits
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-4)
