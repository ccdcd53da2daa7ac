"""What can be said of stored tensors from configuration and headers alone: no torch, no byte of weights."""

import random
import re
from contextlib import suppress
from typing import Any

import pytest

from spinal.checkpoints.stored import METHODS, Stored, stored_tensors
from spinal.errors import QuantizationUnsupported, SpinalError, WeightsCorrupt

M = "model.layers.0.mlp.down_proj"
PLAIN = {"model.embed_tokens.weight": ("BF16", 100, 64), "model.norm.weight": ("F32", 64)}


def headers(**tensors: tuple[Any, ...]) -> dict[str, dict[str, Any]]:
    return {name: {"dtype": kind, "shape": list(shape)} for name, (kind, *shape) in (PLAIN | tensors).items()}


def of(tensors: dict[str, Any], entry: Any = None) -> Stored:
    config = {} if entry is None else {"quantization_config": entry}
    return stored_tensors(config, headers(**tensors), "local:x")


def ct(**weights: Any) -> dict[str, Any]:
    return {"quant_method": "compressed-tensors", "config_groups": {"g": {"targets": ["Linear"], "weights": weights}}}


CHANNEL = ct(num_bits=8, type="float", strategy="channel")
FOUR = ct(num_bits=4, type="int", strategy="group", group_size=32)
FINE = {"quant_method": "fp8", "weight_block_size": [128, 128]}
WORDS = {f"{M}.weight_packed": ("I32", 64, 32), f"{M}.weight_scale": ("BF16", 64, 8), f"{M}.weight_shape": ("I64", 2)}

READ: dict[str, tuple[dict[str, Any], Any]] = {
    "fp8": ({f"{M}.weight": ("F8_E4M3", 300, 140), f"{M}.weight_scale_inv": ("F32", 3, 2)}, FINE),
    "fp8, exponents": ({f"{M}.weight": ("F8_E4M3", 300, 140), f"{M}.weight_scale_inv": ("F8_E8M0", 3, 2)}, FINE),
    "fp8, one scale": (
        {f"{M}.weight": ("F8_E4M3", 300, 140), f"{M}.weight_scale_inv": ("F32",)}, {"quant_method": "fp8"},
    ),
    "fp8, experts in one tensor": (
        {f"{M}": ("F8_E4M3", 4, 256, 128), f"{M}_scale_inv": ("BF16", 4, 2, 1)}, FINE,
    ),
    "compressed, channels": ({f"{M}.weight": ("F8_E4M3", 64, 256), f"{M}.weight_scale": ("BF16", 64, 1)}, CHANNEL),
    "compressed, words": (WORDS, FOUR),
    "mxfp4": (
        {f"{M}_blocks": ("U8", 4, 64, 2, 16), f"{M}_scales": ("U8", 4, 64, 2)}, {"quant_method": "mxfp4"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_formats_that_are_read(name: str) -> None:
    tensors, entry = READ[name]
    found = of(tensors, entry)
    [weight] = found.coded.values()
    assert set(weight.parts) == set(tensors)
    assert "dequantised" in found.remarks[0]


OTHERS: dict[str, dict[str, Any]] = {
    "gptq": {
        f"{M}.qweight": ("I32", 8, 64), f"{M}.qzeros": ("I32", 1, 8), f"{M}.scales": ("F16", 1, 64),
        f"{M}.g_idx": ("I32", 64),
    },
    "awq": {f"{M}.qweight": ("I32", 64, 8), f"{M}.qzeros": ("I32", 1, 8), f"{M}.scales": ("F16", 1, 64)},
    "bitsandbytes": {
        f"{M}.weight": ("U8", 2048, 1), f"{M}.weight.absmax": ("U8", 64), f"{M}.weight.quant_map": ("F32", 16),
        f"{M}.weight.quant_state.bitsandbytes__nf4": ("U8", 90),
    },
    "bitsandbytes in 8 bits": {f"{M}.weight": ("I8", 64, 64), f"{M}.SCB": ("F32", 64), f"{M}.weight_format": ("U8",)},
    "hqq": {f"{M}.W_q": ("U8", 32, 64), f"{M}.scale": ("F16", 64, 1), f"{M}.zero": ("F16", 64, 1)},
    "quanto": {f"{M}.weight._data": ("I8", 64, 64), f"{M}.weight._scale": ("F16", 64, 1)},
    "torchao": {f"{M}.weight:_data:qdata": ("I8", 64, 64), f"{M}.weight:_data:scale": ("F32", 64)},
    "aqlm": {
        f"{M}.codes": ("I16", 64, 8, 1), f"{M}.codebooks": ("F16", 1, 256, 1, 8), f"{M}.scales": ("F16", 64, 1, 1, 1),
    },
    "modelopt": {f"{M}.weight": ("F8_E4M3", 64, 64), f"{M}.weight_scale": ("F32",), f"{M}.input_scale": ("F32",)},
    "nvfp4": {f"{M}.weight": ("U8", 64, 32), f"{M}.weight_scale": ("F8_E4M3", 64, 4), f"{M}.weight_scale_2": ("F32",)},
    "mlx": {f"{M}.weight": ("U32", 64, 8), f"{M}.scales": ("BF16", 64, 1), f"{M}.biases": ("BF16", 64, 1)},
    "eetq": {f"{M}.weight": ("I8", 64, 64), f"{M}.weight_scales": ("F16", 64)},
    "codes in floats": {f"{M}.weight": ("F16", 64, 64), f"{M}.weight_scale": ("F32", 1)},
    "eight bits, no scale": {f"{M}.weight": ("F8_E4M3", 64, 64)},
    "eight bits of the other kind": {f"{M}.weight": ("F8_E5M2", 64, 64)},
    "words": {f"{M}.weight": ("I32", 64, 8)},
}  # fmt: skip
ENTRIES = [None, *METHODS, "gptq", "modelopt", "anything", "bitsandbytes"]


@pytest.mark.parametrize("method", ENTRIES)
@pytest.mark.parametrize("name", OTHERS)
def test_formats_that_are_not_read_are_refused_whatever_the_configuration_says(name: str, method: str | None) -> None:
    entry = None if method is None else (FINE | CHANNEL | {"quant_method": method})
    with pytest.raises((QuantizationUnsupported, WeightsCorrupt), match=re.escape(M)) as caught:
        of(OTHERS[name], entry)
    assert "16-bit copy" in str(caught.value.hint)


@pytest.mark.parametrize("method", [*METHODS, "gptq", "modelopt", "anything", "hqq", None])
def test_an_entry_on_floats_is_a_remark(method: str | None) -> None:
    found = of({}, {"quant_method": method} | ({"load_in_4bit": True} if method is None else {}))
    assert not found.coded
    assert "measured as stored" in found.remarks[0]


@pytest.mark.parametrize("entry", [{"quant_method": "bitnet"}, {"quant_method": "fp_quant"}])
def test_a_method_that_changes_what_layers_compute_is_refused_on_floats_too(entry: dict[str, Any]) -> None:
    with pytest.raises(QuantizationUnsupported, match="changes what the layers compute"):
        of({}, entry)


def test_whole_numbers_that_are_no_weights_pass() -> None:
    found = of({
        "h.0.attn.bias": ("U8", 1, 1, 8, 8), "h.0.attn.masked_bias": ("F32",), "h.1.attn.bias": ("BOOL", 1, 1, 8, 8),
        "model.position_ids": ("I64", 1, 8), "model.layers.0.mlp.gate.tid2eid": ("I64", 100, 2),
    })  # fmt: skip
    assert found == Stored({})


@pytest.mark.parametrize(
    ("scale", "entry"),
    [
        (("F32", 2, 2), FINE),
        (("F32", 3, 1), FINE),
        (("F32",), FINE),
        (("F32", 3, 2), FINE | {"weight_block_size": [64, 128]}),
        (("I8", 3, 2), FINE),
        (("U8", 3, 2), FINE),
        (("F32", 3, 2), FINE | {"weight_block_size": [0, 128]}),
        (("F32", 3, 2), FINE | {"weight_block_size": "128"}),
        (("F32", 3, 2), FINE | {"weight_block_size": None}),
    ],
)
def test_scales_that_do_not_fit_their_codes_are_refused(scale: tuple[Any, ...], entry: dict[str, Any]) -> None:
    with pytest.raises((QuantizationUnsupported, WeightsCorrupt)):
        of({f"{M}.weight": ("F8_E4M3", 300, 140), f"{M}.weight_scale_inv": scale}, entry)


def test_a_weight_that_is_there_as_codes_and_as_it_is_is_refused() -> None:
    with pytest.raises((WeightsCorrupt, QuantizationUnsupported)):
        of(WORDS | {f"{M}.weight": ("BF16", 64, 256)}, FOUR)


def test_whatever_headers_and_configuration_hold_is_an_error_of_ours() -> None:
    """2,000 seeded mutations: members of the entry and of the headers replaced by what people and tools leave there."""
    draw = random.Random(15)
    junk: list[Any] = [None, "x", -1, 0, 2**70, 1.5, [], {}, [1], {"a": 1}, True, "re:(", [128, 128]]
    kinds = ["F32", "F8_E4M3", "I32", "U8", "I8", "F4", "??"]
    read = 0
    for _ in range(2000):
        tensors, entry = draw.choice(list(READ.values()))
        changed = headers(**tensors)
        name = draw.choice(sorted(changed))
        if draw.random() < 0.5:
            changed[name] = {
                "dtype": draw.choice(kinds),
                "shape": [draw.randrange(70) for _ in range(draw.randrange(5))],
            }
        config = {"quantization_config": mutated(entry, junk, draw)}
        with suppress(SpinalError):
            stored_tensors(config, changed, "local:x")
            read += 1
    assert 50 < read < 1900


def mutated(entry: Any, junk: list[Any], draw: random.Random) -> Any:
    """``entry`` with one member, at any depth, replaced."""
    if not isinstance(entry, dict) or not entry or draw.random() < 0.2:
        return draw.choice(junk)
    key = draw.choice(sorted(entry))
    return entry | {key: mutated(entry[key], junk, draw)}


@pytest.mark.parametrize("target", ["re:(", "re:a{99999999999999999999}", "re:" + "(" * 5_000])
def test_a_target_that_is_no_pattern_names_no_weight(target: str) -> None:
    entry = ct(num_bits=8, type="float", strategy="channel")
    entry["config_groups"]["g"]["targets"] = [target]
    entry["config_groups"]["h"] = ct(num_bits=8, type="int")["config_groups"]["g"] | {"targets": [target]}
    tensors, _ = READ["compressed, channels"]
    with pytest.raises(QuantizationUnsupported, match="config_groups"):
        of(tensors, entry)


def test_a_weight_without_columns_is_refused_or_read_and_divides_by_nothing() -> None:
    of({f"{M}.weight": ("F8_E4M3", 64, 0), f"{M}.weight_scale": ("BF16", 64, 0)}, CHANNEL)
