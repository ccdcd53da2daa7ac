"""A PEFT adapter with its base is measured as the model that merging it makes."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.errors import AdapterInvalid
from spinal.prompts.sets import PromptSet


@pytest.fixture
def adapter(tmp_path: Path, tiny: Callable[..., Path]) -> tuple[Path, Path]:
    """(adapter folder, folder of the merged model) beside a copy of the base."""
    import transformers
    from peft import LoraConfig, PeftModel, get_peft_model

    base = tmp_path / "base"
    base.mkdir()
    for file in tiny("qwen2").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    model = transformers.AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    torch.manual_seed(1)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.1)
    wrapped.peft_config["default"].base_model_name_or_path = "../base"
    assert isinstance(wrapped, PeftModel)
    wrapped.save_pretrained(str(tmp_path / "adapter"))
    merged: Any = wrapped.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "merged" / name).write_bytes((base / name).read_bytes())
    return tmp_path / "adapter", tmp_path / "merged"


def test_an_adapter_is_measured_as_the_merged_model(
    adapter: tuple[Path, Path], traced: Callable[..., tuple[Trace, Path]], tiny: Callable[..., Path], few: PromptSet
) -> None:
    mine, merged = (traced(folder, few)[0] for folder in adapter)
    base, _ = traced(tiny("qwen2"), few)

    def alphas(trace: Trace) -> np.ndarray:
        return np.array([layer.positions["all"].transport or 0.0 for layer in trace.layers])

    # Merging in float32 rounds the sum of weights once; nothing else differs.
    np.testing.assert_allclose(alphas(mine), alphas(merged), atol=1e-5)
    assert np.abs(alphas(mine) - alphas(base)).max() > 1e-3
    assert mine.model.weights_digest not in (merged.model.weights_digest, base.model.weights_digest)


def test_an_adapter_without_its_base_is_refused(
    adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    # A base that is not beside the adapter is looked for from the working folder, and there may be one of that name.
    monkeypatch.chdir(adapter[0])
    with pytest.raises(AdapterInvalid, match="base"):
        inspect(resolve_reference(os.fspath(adapter[0]), roots=None))


def test_base_and_adapter_are_one_load_and_the_base_stays_itself(
    adapter: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spinal.engine import load as loading
    from spinal.profile import MeasurementProfile

    reads: list[str] = []
    original = loading.StoredTensors

    def counted(checkpoint: Checkpoint) -> object:
        reads.append(str(checkpoint))
        return original(checkpoint)

    monkeypatch.setattr(loading, "StoredTensors", counted)
    profile = MeasurementProfile()
    base, adapted = (resolve_reference(os.fspath(folder), roots=None) for folder in (tmp_path / "base", adapter[0]))
    ours, theirs = loading.load_pair(base, adapted, profile, "cpu")
    assert len(reads) == 1
    bare, alone = loading.load(base, profile, "cpu"), loading.load(adapted, profile, "cpu")
    for name, tensor in bare.model.state_dict().items():
        assert torch.equal(tensor, ours.model.state_dict()[name]), name
    mine, shared = dict(ours.model.named_parameters()), 0
    for name, tensor in alone.model.named_parameters():
        twin = theirs.model.get_parameter(name)
        assert torch.equal(tensor, twin), name
        shared += twin.data_ptr() == mine[name].data_ptr()
        assert ("q_proj.weight" in name or "down_proj" in name) == (twin.data_ptr() != mine[name].data_ptr()), name
    assert shared


def test_a_comparison_with_an_adapter_is_that_with_the_merged_model(
    adapter: tuple[Path, Path], tmp_path: Path, traced: Callable[..., tuple[Trace, Path]], few: PromptSet
) -> None:
    from spinal.engine.api import gather_evidence
    from spinal.profile import MeasurementProfile
    from tests.engine.conftest import KNOBS

    base = tmp_path / "base"
    _, base_capture = traced(base, few)
    found = []
    for folder in adapter:
        _, capture = traced(folder, few)
        found.append(
            gather_evidence(
                resolve_reference(os.fspath(base), roots=None),
                resolve_reference(os.fspath(folder), roots=None),
                reference_capture=base_capture,
                candidate_capture=capture,
                prompts=few,
                profile=MeasurementProfile(**KNOBS),
            )
        )
    mine, merged = found
    # The merged checkpoint went through one float32 rounding on its way to the disk and back: none is lost.
    np.testing.assert_allclose(mine.block_swap, merged.block_swap, rtol=1e-5)
    np.testing.assert_allclose(mine.weight_change, merged.weight_change, rtol=1e-6)
    np.testing.assert_allclose(mine.function_gap["all"], merged.function_gap["all"], atol=1e-5)
    assert mine.block_swap.mean() > 0.0
    assert mine.weight_change_other == {"embeddings": 0.0, "final_norm": 0.0, "head": 0.0}
