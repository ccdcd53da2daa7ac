"""Blocks read from disk one at a time: the same bits as the model loaded whole, and each block read few times."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.anatomy import find_anatomy
from spinal.engine.api import gather_evidence, measure
from spinal.engine.load import LoadedModel, load
from spinal.engine.stream import BlockStore
from spinal.errors import NonFiniteWeights
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.architectures import build
from tests.engine.conftest import KNOBS
from tests.engine.families import BLOCKS, FAMILIES

Tiny = Callable[..., Path]
WHOLE = {"mixtral", "deepseek_v3", "gpt_neox"}
"""Stored expert by expert and fused when loaded, or with a head that the file calls otherwise: loaded whole."""
PROFILE = MeasurementProfile(**KNOBS)


def contents(path: Path) -> dict[str, np.ndarray]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).float().numpy() for name in file.keys()}  # noqa: SIM118  safe_open is no mapping


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "checkpoint"])
def test_a_streamed_trace_is_the_whole_one_bit_for_bit(family: str, dtype: str, few: PromptSet, tmp_path: Path) -> None:
    folder = build(family, tmp_path / "model", dtype=torch.bfloat16 if dtype == "checkpoint" else torch.float32)
    checkpoint = resolve_reference(os.fspath(folder), roots=None)
    profile = PROFILE.model_copy(update={"dtype": dtype})
    streamed = load(checkpoint, profile, "cpu", stream=True).store
    # gpt_oss keeps some modules in float32 whatever the file holds.
    whole = family in WHOLE or (family == "gpt_oss" and dtype == "checkpoint")
    assert (streamed is None) == whole, "a family that can be streamed must be"
    traces = []
    for stream in (False, True):
        trace = measure(checkpoint, few, profile, capture_path=tmp_path / f"{stream}", stream=stream)
        traces.append(trace.model_dump(exclude={"provenance"}))
    assert traces[0] == traces[1]
    at_once, piecewise = (contents(tmp_path / f"{stream}") for stream in (False, True))
    for name, array in at_once.items():
        np.testing.assert_array_equal(array, piecewise[name], err_msg=name)


def test_reading_in_pieces_brings_no_advice_of_others(
    tiny: Tiny, few: PromptSet, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    checkpoint = resolve_reference(os.fspath(tiny("llama")), roots=None)
    capfd.readouterr()
    measure(checkpoint, few, PROFILE, capture_path=tmp_path / "a", stream=True)
    assert (caplog.messages, *capfd.readouterr()) == ([], "", "")


def test_a_streamed_comparison_is_the_whole_one_bit_for_bit(tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    sides = [resolve_reference(os.fspath(tiny("gemma2", seed=seed)), roots=None) for seed in (0, 1)]
    for side, name in zip(sides, "ab", strict=True):
        measure(side, few, PROFILE, capture_path=tmp_path / name)
    found = [
        gather_evidence(
            sides[0], sides[1], reference_capture=tmp_path / "a", candidate_capture=tmp_path / "b", prompts=few,
            profile=PROFILE, stream=stream,
        )
        for stream in (False, True)
    ]  # fmt: skip
    for member in ("block_swap", "block_swap_transport", "weight_change"):
        np.testing.assert_array_equal(getattr(found[0], member), getattr(found[1], member))
    assert found[0].weight_change_other == found[1].weight_change_other
    np.testing.assert_array_equal(found[0].function_gap["all"], found[1].function_gap["all"])


@pytest.fixture
def streamed(tiny: Tiny) -> tuple[LoadedModel, BlockStore]:
    loaded = load(resolve_reference(os.fspath(tiny("llama")), roots=None), PROFILE, "cpu", stream=True)
    assert loaded.store is not None
    return loaded, loaded.store


def test_only_the_block_that_is_entered_has_storage(streamed: tuple[LoadedModel, BlockStore]) -> None:
    loaded, store = streamed
    anatomy = find_anatomy(loaded.model, BLOCKS, "x", store)
    assert all(parameter.is_meta for parameter in anatomy.blocks.parameters())
    with anatomy.resident(1):
        assert [all(not p.is_meta for p in block.parameters()) for block in anatomy.blocks] == [False, True, False]
    assert all(parameter.is_meta for parameter in anatomy.blocks.parameters())


def test_a_measurement_reads_each_block_few_times(
    tiny: Tiny, few: PromptSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once each for the parts, the probes, the walk, the parity gate and the continuations, however many prompts;
    greedy continuations, which are left out here, read them once for every token."""
    counts: list[int] = []
    original = BlockStore.resident

    def counted(store: BlockStore, index: int) -> AbstractContextManager[None]:
        counts.append(index)
        return original(store, index)

    monkeypatch.setattr(BlockStore, "resident", counted)
    checkpoint = resolve_reference(os.fspath(tiny("llama")), roots=None)
    totals = []
    profile = MeasurementProfile(**(KNOBS | {"greedy_prompts": 0, "continuation_walk": "apart"}))
    for prompts in (few, PromptSet(few.prompts[:12], few.continuations[:12])):
        counts.clear()
        measure(checkpoint, prompts, profile, capture_path=tmp_path / "c", stream=True)
        totals.append(len(counts))
    assert totals == [5 * BLOCKS] * 2


def test_a_pass_that_fails_leaves_no_block_loaded(streamed: tuple[LoadedModel, BlockStore]) -> None:
    loaded, store = streamed
    block = loaded.model.get_submodule("model.layers.0")

    def fail(*_: object) -> None:
        raise RuntimeError("asked for")

    block.get_submodule("mlp").register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="asked for"), store.on_call():
        loaded.model(input_ids=torch.tensor([[3, 4]]))
    assert all(parameter.is_meta for parameter in block.parameters())


def test_nan_weights_are_named_when_their_block_is_read(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(tiny("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weights[name][0, 0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load(resolve_reference(os.fspath(folder), roots=None), PROFILE, "cpu", stream=True)
    assert loaded.store is not None
    with pytest.raises(NonFiniteWeights, match=name), loaded.store.resident(1):
        pass


TIED = [family for family in FAMILIES if family not in WHOLE]
HEADS = ("absent", "equal", "different", "alone")
"""What the files hold of a head that the configuration ties: nothing, a copy, another one, or the head alone."""


def tied(family: str, head: str, folder: Path) -> Path:
    """A folder of ``family`` whose configuration ties the head."""
    build(family, folder)
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    [(target, source)] = model.all_tied_weights_keys.items()
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors.pop(source)
    tensors.pop(target, None)
    noise = 0.05 * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(5))
    heads = {"equal": embedding.clone(), "different": embedding + noise, "alone": embedding}
    kept = {} if head == "alone" else {source: embedding}
    kept |= {} if head == "absent" else {target: heads[head]}
    save_file(tensors | kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", TIED)
def test_heads_are_tied_as_transformers_ties_them(family: str, head: str, tmp_path: Path) -> None:
    """A configuration that ties, and files that know better: both ways keep the head that training moved."""
    folder = tied(family, head, tmp_path / "model")
    checkpoint = resolve_reference(os.fspath(folder), roots=None)
    whole, streamed = (load(checkpoint, PROFILE, "cpu", stream=stream) for stream in (False, True))
    expected: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert streamed.store is not None
    ids = torch.tensor([[3, 40, 7, 9, 1200]])
    with torch.no_grad(), streamed.store.on_call():
        found = [loaded.model(input_ids=ids).logits for loaded in (whole, streamed)]
        logits = expected(input_ids=ids).logits
    models: tuple[Any, ...] = (whole.model, streamed.model, expected)
    for model in models:
        head_weight, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert (head_weight.data_ptr() != embedding.data_ptr()) == (head == "different")
    assert all(torch.equal(values, logits) for values in found)


def test_files_that_are_not_listed_are_not_streamed(tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    """Whatever lies beside the weights under a safetensors name, before or after them in name order."""
    folder = tmp_path / "ema"
    shutil.copytree(tiny("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    for stray in ("model_ema", "adapter_model", "zz", "a-00001-of-00001", "consolidated"):
        save_file({name: tensor + 0.1 for name, tensor in weights.items()}, folder / f"{stray}.safetensors")
    stale = {"weight_map": dict.fromkeys(weights, "a-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(stale))
    plain, other = (resolve_reference(os.fspath(each), roots=None) for each in (tiny("llama"), folder))
    traces = [
        measure(each, few, PROFILE, capture_path=tmp_path / "c", stream=stream)
        for each, stream in ((plain, False), (other, False), (other, True))
    ]
    assert traces[0].layers == traces[1].layers == traces[2].layers
    assert traces[0].nll == traces[1].nll == traces[2].nll
