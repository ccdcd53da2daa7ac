"""Every tensor is accounted for: asked, found, left over, stored dtype; loaded whole and streamed alike."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.api import measure
from spinal.engine.load import load
from spinal.engine.stored import StoredTensors
from spinal.errors import ArchitectureUnsupported, SpinalError, WeightsCorrupt
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.conftest import KNOBS
from tests.engine.families import BLOCKS, FAMILIES

Tiny = Callable[..., Path]
Tensors = dict[str, torch.Tensor]
PROFILE = MeasurementProfile(**KNOBS)
WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
DEPTH = ("num_hidden_layers", "n_layer", "n_layers")


def of(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def changed(source: Path, folder: Path, change: Callable[[Tensors], Tensors], config: Any = None) -> Checkpoint:
    """``folder``: ``source`` with other tensors and members of config.json."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    save_file(change(load_file(source / "model.safetensors")), folder / "model.safetensors", {"format": "pt"})
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | (config or {})))
    return of(folder)


def added(source: Path, folder: Path, more: Tensors) -> Checkpoint:
    return changed(source, folder, lambda tensors: tensors | more)


def refused(checkpoint: Checkpoint, stream: bool) -> SpinalError:
    with pytest.raises(WeightsCorrupt) as caught:
        load(checkpoint, PROFILE, "cpu", stream=stream)
    assert caught.value.hint
    return caught.value


@WAYS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stored_tensor_that_the_model_does_not_use_is_refused(
    family: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    names = sorted(load_file(tiny(family) / "model.safetensors"))
    inside = next(name for name in names if ".1." in name and name.endswith("weight"))
    for number, name in enumerate((inside.replace("weight", "gain"), f"extra.{inside}", "value.weight", f"{inside}_g")):
        checkpoint = added(tiny(family), tmp_path / str(number), {name: torch.ones(3)})
        assert name in str(refused(checkpoint, stream))


@WAYS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_of_fewer_blocks_than_the_files_hold_is_refused(
    family: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    known = json.loads((tiny(family) / "config.json").read_text())
    [member] = [name for name in DEPTH if name in known]
    # Some families have a list with an entry for each block.
    fewer = {k: v[:-1] for k, v in known.items() if isinstance(v, list) and len(v) == BLOCKS} | {member: BLOCKS - 1}
    error = refused(changed(tiny(family), tmp_path / "fewer", dict, fewer), stream)
    assert f".{BLOCKS - 1}." in str(error)
    assert f"{BLOCKS - 1} blocks, the files hold at least {BLOCKS}" in str(error.hint)


@WAYS
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(
    family: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    names = sorted(load_file(tiny(family) / "model.safetensors"))
    for name in random.Random(family).sample(names, 3):

        def without(tensors: Tensors, name: str = name) -> Tensors:
            return {other: tensor for other, tensor in tensors.items() if other != name}

        def twice_as_high(tensors: Tensors, name: str = name) -> Tensors:
            return tensors | {name: torch.cat([tensors[name]] * 2)}

        for change in (without, twice_as_high):
            refused(changed(tiny(family), tmp_path / "m", change), stream)


@WAYS
@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_a_weight_of_whole_numbers_is_refused(kind: torch.dtype, stream: bool, tiny: Tiny, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoint = changed(tiny("llama"), tmp_path / "m", lambda tensors: tensors | {name: tensors[name].to(kind)})
    with pytest.raises(SpinalError, match=name):
        load(checkpoint, PROFILE, "cpu", stream=stream)


HARMLESS: dict[str, tuple[str, dict[str, torch.Tensor]]] = {
    "frequencies": ("llama", {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(8) for i in range(3)}),
    "masks": (
        "gpt2",
        {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8)}
        | {"transformer.h.0.attn.masked_bias": torch.tensor(-1e4)},
    ),
    "masks of floats": ("gpt_neox", {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 8, 8)}),
    "scales of the cache": (
        "llama",
        {f"model.layers.{i}.self_attn.{x}_scale": torch.ones(()) for i in range(3) for x in "kv"},
    ),
    "scales of activations": ("gpt2", {"transformer.h.0.mlp.c_fc.input_scale": torch.ones(1)}),
    "positions": ("opt", {"model.decoder.position_ids": torch.arange(9).reshape(1, 9)}),
    "value head": ("llama", {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.ones(1)}),
}


@WAYS
@pytest.mark.parametrize("case", HARMLESS)
def test_a_leftover_that_changes_nothing_is_measured_with_a_remark(
    case: str, stream: bool, tiny: Tiny, few: PromptSet, tmp_path: Path
) -> None:
    family, more = HARMLESS[case]
    checkpoint = added(tiny(family), tmp_path / "more", more)
    inspect(checkpoint)
    plain, trace = (
        measure(each, few, PROFILE, capture_path=tmp_path / "capture", stream=stream)
        for each in (of(tiny(family)), checkpoint)
    )
    assert plain.layers == trace.layers
    assert plain.nll == trace.nll
    [remark] = set(trace.warnings) - set(plain.warnings)
    assert min(more) in remark
    assert f"{len(more)} stored tensors" in remark


UNLIKE = {
    "a bias by positions": {"model.layers.0.attention.bias": torch.full((1, 1, 8, 8), 0.5)},
    "a scale by heads": {"model.layers.0.self_attn.k_scale": torch.ones(4)},
    "a scale of the weight's input": {"model.layers.0.self_attn.q_proj.pre_quant_scale": torch.ones(64)},
}


@WAYS
@pytest.mark.parametrize("case", UNLIKE)
def test_a_leftover_that_is_like_a_harmless_one_by_name_alone_is_refused(
    case: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    assert min(UNLIKE[case]) in str(refused(added(tiny("llama"), tmp_path / "m", UNLIKE[case]), stream))


RENUMBERED = {"one is missing": {"2": "4"}, "one has another's number": {"3": "02"}, "counted from one": {"0": "4"}}


@WAYS
@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("case", RENUMBERED)
@pytest.mark.parametrize("place", ["", ".1."], ids=["in all blocks", "in one"])
def test_experts_that_are_not_numbered_from_zero_are_refused(
    place: str, case: str, family: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    [(old, new)] = RENUMBERED[case].items()

    def renumbered(tensors: Tensors) -> Tensors:
        return {
            name.replace(f".experts.{old}.", f".experts.{new}.") if place in name else name: tensor
            for name, tensor in tensors.items()
        }

    error = refused(changed(tiny(family), tmp_path / "m", renumbered), stream)
    assert "are not those from 0 to 3" in str(error)


def test_an_index_that_leaves_a_tensor_out_is_streamed_like_the_whole(
    tiny: Tiny, few: PromptSet, tmp_path: Path
) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(tiny("llama"), folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    weight_map = dict.fromkeys(sorted(tensors)[1:], "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    plain, trace = (
        measure(of(each), few, PROFILE, capture_path=tmp_path / "capture", stream=True)
        for each in (tiny("llama"), folder)
    )
    assert plain.layers == trace.layers


@WAYS
def test_a_bias_that_is_no_mask_is_refused(stream: bool, tiny: Tiny, tmp_path: Path) -> None:
    for name, shape in (("attn.bias", (64,)), ("crossattention.bias", (64,)), ("mlp.attn.bias", (2, 2))):
        refused(added(tiny("gpt2"), tmp_path / "m", {f"transformer.h.1.{name}": torch.ones(shape)}), stream)


@WAYS
def test_parts_that_transformers_knows_of_the_architecture_are_left_over(
    stream: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multi-token prediction, stored apart or as one more layer; an ordinary block in its place is still refused."""
    patterns = [r"^mtp.*", rf"model\.layers\.{BLOCKS}.*"]
    monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_unexpected", patterns)
    layer = f"model.layers.{BLOCKS}."
    known = {name: torch.ones(2) for name in (f"{layer}hnorm.weight", f"{layer}eh_proj.weight", "mtp.a.weight")}
    loaded = load(added(tiny("llama"), tmp_path / "m", known), PROFILE, "cpu", stream=stream)
    [remark] = loaded.remarks
    assert "3 stored tensors are not used: transformers knows them" in remark
    block = added(tiny("llama"), tmp_path / "b", {f"{layer}mlp.up_proj.weight": torch.ones(96, 64)})
    assert "blocks" in str(refused(block, stream).hint)


WRAPPED = ["module.", "_orig_mod.", "base_model.model.", "_fsdp_wrapped_module."]


@pytest.mark.parametrize("prefix", WRAPPED)
def test_names_that_a_trainer_wrapped_are_refused_at_submission_with_what_to_do(
    prefix: str, tiny: Tiny, tmp_path: Path
) -> None:
    every = changed(tiny("llama"), tmp_path / "m", lambda t: {f"{prefix}{name}": tensor for name, tensor in t.items()})
    with pytest.raises(WeightsCorrupt, match="every tensor") as caught:
        inspect(every)
    assert "left it" in str(caught.value.hint)


@WAYS
@pytest.mark.parametrize("prefix", WRAPPED)
def test_wrappers_inside_of_names_are_named_when_tensors_are_missing(
    prefix: str, stream: bool, tiny: Tiny, tmp_path: Path
) -> None:
    some = changed(
        tiny("llama"), tmp_path / "m", lambda t: {n.replace("layers.1.", f"layers.1.{prefix}"): x for n, x in t.items()}
    )
    error = refused(some, stream)
    assert "missing" in str(error)
    assert prefix in str(error.hint)


@WAYS
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_neox"])
def test_a_weight_that_is_stored_twice_is_refused(family: str, stream: bool, tiny: Tiny, tmp_path: Path) -> None:
    def twice(tensors: Tensors) -> Tensors:
        if family == "mixtral":
            return tensors | {"model.layers.1.mlp.experts.gate_up_proj": torch.ones(4, 192, 64)}
        if family == "gpt_neox":
            return tensors | {"lm_head.weight": tensors["embed_out.weight"] + 1}
        name = next(name for name in sorted(tensors) if ".1." in name)
        return tensors | {name.partition(".")[2]: tensors[name] + 1}

    assert "the same weight" in str(refused(changed(tiny(family), tmp_path / "m", twice), stream))


@WAYS
def test_a_bias_that_the_configuration_denies_is_refused(stream: bool, tiny: Tiny, tmp_path: Path) -> None:
    more = {f"model.layers.{i}.self_attn.q_proj.bias": torch.ones(64) for i in range(BLOCKS)}
    checkpoint = added(tiny("llama"), tmp_path / "m", more)
    assert "3 stored tensors are not used by LlamaForCausalLM" in str(refused(checkpoint, stream))


@WAYS
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_read_that_fails_keeps_its_own_error(
    family: str, stream: bool, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers passes on what reading raised as text; a disk that fails is not the file's fault."""

    def fail(_: StoredTensors, name: str) -> None:
        raise OSError(5, f"asked for {name}")

    monkeypatch.setattr(StoredTensors, "_opened", fail)
    with pytest.raises(OSError, match="asked for"):
        load(of(tiny(family)), PROFILE, "cpu", stream=stream)


def test_a_model_type_without_a_causal_model_is_no_weight_s_fault(tiny: Tiny, tmp_path: Path) -> None:
    checkpoint = changed(tiny("llama"), tmp_path / "m", dict, {"model_type": "t5"})
    with pytest.raises(ArchitectureUnsupported, match="no causal language model of type 't5'"):
        load(checkpoint, PROFILE, "cpu")
