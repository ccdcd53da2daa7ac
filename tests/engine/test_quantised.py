"""Weights stored as codes and scales: the numbers of the dequantised copy, bit for bit, whole and streamed, or a
refusal at submission that says why. No package of any format is installed here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.api import measure
from spinal.engine.load import LoadedModel, load
from spinal.errors import QuantizationUnsupported, SpinalError, WeightsCorrupt
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet
from tests.engine.architectures import build
from tests.engine.conftest import KNOBS
from tests.engine.quantise import FORMATS, quantise, quantise_experts, write

Tiny = Callable[..., Path]
PROFILE = MeasurementProfile(**KNOBS)
DTYPES = {"float32": torch.float32, "checkpoint": torch.bfloat16}


def of(folder: Path) -> Checkpoint:
    return resolve_reference(os.fspath(folder), roots=None)


def logits(loaded: LoadedModel) -> torch.Tensor:
    ids = torch.tensor([[1, 5, 9, 40, 41, 7], [1, 300, 2, 8, 90, 12]])
    with torch.no_grad():
        if loaded.store is None:
            return loaded.model(input_ids=ids).logits
        with loaded.store.on_call():
            return loaded.model(input_ids=ids).logits


def require_equal(coded: Path, dense: Path, *, dtype: str, streams: bool) -> None:
    profile = PROFILE.model_copy(update={"dtype": dtype})
    expected = load(of(dense), profile, "cpu")
    inspect(of(coded))
    whole, streamed = (load(of(coded), profile, "cpu", stream=stream) for stream in (False, True))
    assert (streamed.store is not None) == streams
    assert whole.model.state_dict().keys() == expected.model.state_dict().keys()
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(whole.model.state_dict()[name], tensor), name
    for loaded in (whole, streamed):
        assert torch.equal(logits(loaded), logits(expected))
        assert any("dequantised" in remark for remark in loaded.remarks)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_those_of_the_dequantised_copy(form: str, dtype: str, tmp_path: Path) -> None:
    folder = build("qwen2", tmp_path / "source", dtype=DTYPES[dtype])
    quantise(folder, tmp_path / "coded", tmp_path / "dense", form, DTYPES[dtype])
    require_equal(tmp_path / "coded", tmp_path / "dense", dtype=dtype, streams=True)


@pytest.mark.parametrize("form", ["fp8", "ct-float-channel", "ct-int4-zero"])
def test_experts_that_are_fused_when_loaded_are_dequantised_first(form: str, tiny: Tiny, tmp_path: Path) -> None:
    quantise(tiny("mixtral"), tmp_path / "coded", tmp_path / "dense", form)
    require_equal(tmp_path / "coded", tmp_path / "dense", dtype="float32", streams=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_mxfp4_experts_are_those_of_the_dequantised_copy(dtype: str, tmp_path: Path) -> None:
    folder = build("gpt_oss", tmp_path / "source", dtype=DTYPES[dtype])
    quantise_experts(folder, tmp_path / "coded", tmp_path / "dense", DTYPES[dtype])
    require_equal(tmp_path / "coded", tmp_path / "dense", dtype=dtype, streams=dtype == "float32")


@pytest.mark.parametrize("form", ["fp8", "ct-int4-group"])
def test_a_trace_of_codes_is_the_trace_of_the_values(form: str, tiny: Tiny, few: PromptSet, tmp_path: Path) -> None:
    quantise(tiny("llama"), tmp_path / "coded", tmp_path / "dense", form)
    traces = [
        measure(of(tmp_path / name), few, PROFILE, capture_path=tmp_path / f"{name}.capture", stream=stream)
        for name, stream in (("dense", False), ("coded", False), ("coded", True))
    ]
    assert traces[0].layers == traces[1].layers == traces[2].layers
    assert not any("dequantised" in remark for remark in traces[0].warnings)
    assert all(any("dequantised" in remark for remark in trace.warnings) for trace in traces[1:])


def settings(method: str, **more: Any) -> dict[str, Any]:
    return {"quant_method": method, **more}


OTHERS = [
    settings("gptq", bits=4),
    settings("awq", bits=4),
    settings("bitsandbytes", load_in_8bit=True),
    {"load_in_4bit": True},
    settings("hqq"),
    settings("quanto", weights="int8"),
    settings("torchao"),
    settings("aqlm"),
    settings("modelopt"),
    settings("brand-new"),
]


@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry.get("quant_method", "unnamed"))
def test_a_leftover_entry_on_floats_is_measured_with_a_remark(
    entry: dict[str, Any], tiny: Tiny, few: PromptSet, tmp_path: Path
) -> None:
    folder = tiny("llama")
    left = write(folder, tmp_path / "left", load_file(folder / "model.safetensors"), entry)
    inspect(of(left))
    for stream in (False, True):
        loaded = load(of(left), PROFILE, "cpu", stream=stream)
        assert torch.equal(logits(loaded), logits(load(of(folder), PROFILE, "cpu")))
        [remark] = loaded.remarks
        assert "measured as stored" in remark


@pytest.mark.parametrize("entry", [None, *OTHERS], ids=lambda entry: (entry or {}).get("quant_method", "silent"))
@pytest.mark.parametrize("form", ["fp8", "ct-float-tensor", "ct-int8-channel", "ct-int4-group"])
def test_codes_of_an_unknown_method_are_refused_at_submission(
    entry: dict[str, Any] | None, form: str, tiny: Tiny, tmp_path: Path
) -> None:
    quantise(tiny("llama"), tmp_path / "coded", tmp_path / "dense", form)
    tensors = load_file(tmp_path / "coded" / "model.safetensors")
    folder = write(tiny("llama"), tmp_path / "other", tensors, entry)
    with pytest.raises(QuantizationUnsupported, match=r"proj\.weight") as caught:
        inspect(of(folder))
    assert caught.value.hint is not None
    assert "16-bit copy" in caught.value.hint


def test_codes_with_scales_that_no_configuration_explains_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """As trainers and converters leave them: E4M3 codes and one number each, config.json silent."""
    tensors = load_file(tiny("llama") / "model.safetensors")
    coded = dict(tensors)
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        scale = tensors[name].abs().max() / 448
        coded[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        coded[f"{name}_scale"] = scale.reshape(1)
    with pytest.raises(QuantizationUnsupported, match="names no quantization"):
        inspect(of(write(tiny("llama"), tmp_path / "fp8", coded, None)))


def test_codes_without_their_scales_or_with_others_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    """Each format with one companion of one weight left out, cut short or of another type."""
    for form in FORMATS:
        quantise(tiny("llama"), tmp_path / form, tmp_path / "dense", form)
        tensors = load_file(tmp_path / form / "model.safetensors")
        entry = json.loads((tmp_path / form / "config.json").read_text())["quantization_config"]
        parts = [n for n in tensors if n.startswith("model.layers.1.mlp.down_proj.weight")]
        for part in parts:
            less = {name: tensor for name, tensor in tensors.items() if name != part}
            longer = tensors | {part: torch.cat([tensors[part].reshape(-1)] * 2)}
            whole = tensors | {part: torch.ones(tensors[part].shape, dtype=torch.int64)}
            for number, changed in enumerate((less, longer, whole)):
                folder = write(tiny("llama"), tmp_path / f"{form}-{part}-{number}", changed, entry)
                with pytest.raises((QuantizationUnsupported, WeightsCorrupt)):
                    refuse(of(folder))


def refuse(checkpoint: Checkpoint) -> None:
    inspect(checkpoint)
    load(checkpoint, PROFILE, "cpu")


@pytest.mark.parametrize(
    "change",
    [
        {"transform_config": {"config_groups": {"R1": {"type": "hadamard"}}}},
        {"sparsity_config": {"format": "sparse-24-bitmask"}},
        {"config_groups": {}},
        {"config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "tensor_group"}}}},
        {"config_groups": [1]},
    ],
)
def test_what_a_scheme_says_and_is_not_read_is_refused(change: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    quantise(tiny("llama"), tmp_path / "coded", tmp_path / "dense", "ct-int8-channel")
    config = json.loads((tmp_path / "coded" / "config.json").read_text())
    config["quantization_config"] |= change
    (tmp_path / "coded" / "config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizationUnsupported):
        inspect(of(tmp_path / "coded"))


def test_each_weight_follows_the_scheme_whose_target_names_it(tiny: Tiny, tmp_path: Path) -> None:
    """Attention in 4 bits by groups, the rest in 8 bits by channels."""
    quantise(tiny("llama"), tmp_path / "four", tmp_path / "dense4", "ct-int4-group")
    quantise(tiny("llama"), tmp_path / "eight", tmp_path / "dense8", "ct-int8-channel")
    four, eight = (load_file(tmp_path / name / "model.safetensors") for name in ("four", "eight"))
    stored = {n: t for n, t in four.items() if "mlp" not in n} | {n: t for n, t in eight.items() if "mlp" in n}
    values = load_file(tmp_path / "dense4" / "model.safetensors")
    values |= {n: t for n, t in load_file(tmp_path / "dense8" / "model.safetensors").items() if "mlp" in n}
    groups = {
        form: FORMATS[form][1]["config_groups"]["group_0"] | {"targets": [target]}
        for form, target in (("ct-int4-group", "re:.*self_attn.*"), ("ct-int8-channel", "Linear"))
    }
    entry = settings("compressed-tensors", config_groups=groups, format="mixed-precision")
    write(tiny("llama"), tmp_path / "coded", stored, entry)
    write(tiny("llama"), tmp_path / "dense", values, None)
    require_equal(tmp_path / "coded", tmp_path / "dense", dtype="float32", streams=True)


def test_scales_of_activations_change_nothing(tiny: Tiny, tmp_path: Path) -> None:
    quantise(tiny("llama"), tmp_path / "coded", tmp_path / "dense", "ct-float-tensor")
    tensors = load_file(tmp_path / "coded" / "model.safetensors")
    extra = {n.replace("weight_scale", "input_scale"): t for n, t in tensors.items() if n.endswith("weight_scale")}
    extra["model.layers.0.self_attn.k_scale"] = torch.ones(1)
    write(tiny("llama"), tmp_path / "more", tensors | extra, FORMATS["ct-float-tensor"][1])
    require_equal(tmp_path / "more", tmp_path / "dense", dtype="float32", streams=True)


def test_an_entry_that_is_no_object_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny("llama")
    for entry in ("gptq", [1], 7):
        left = write(folder, tmp_path / "left", load_file(folder / "model.safetensors"), entry)  # type: ignore[arg-type]  # as people have it
        with pytest.raises(SpinalError, match="quantization_config"):
            inspect(of(left))
