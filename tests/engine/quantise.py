"""Quantised folders made from a small model, in each format that is read, beside the copy that holds the same values in
floats. Quantisers and their values are written apart from the engine's, block by block and code by code."""

import json
import math
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

Tensor = torch.Tensor
Made = tuple[dict[str, Tensor], Tensor]
"""What is stored under which ending of the weight's name, and the values."""
E4M3 = torch.float8_e4m3fn


def blocks(weight: Tensor, height: int, width: int) -> list[tuple[int, int, slice, slice]]:
    """Row and column of each block in the grid, and its slices."""
    rows, columns = weight.shape
    return [
        (i, j, slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width))
        for i, j in product(range(math.ceil(rows / height)), range(math.ceil(columns / width)))
    ]


def floats(weight: Tensor, height: int, width: int, kind: torch.dtype = torch.float32) -> Made:
    """E4M3 codes, a scale for each block."""
    grid = torch.zeros(math.ceil(weight.shape[0] / height), math.ceil(weight.shape[1] / width), dtype=kind)
    codes, values = torch.zeros_like(weight, dtype=E4M3), torch.zeros_like(weight, dtype=torch.float32)
    for i, j, down, across in blocks(weight, height, width):
        grid[i, j] = weight[down, across].abs().max() / 448
        codes[down, across] = (weight[down, across] / grid[i, j].float()).to(E4M3)
        values[down, across] = codes[down, across].float() * grid[i, j].float()
    return {"": codes, "_scale": grid}, values


def integers(weight: Tensor, bits: int, height: int, width: int, symmetric: bool) -> tuple[Tensor, ...]:
    """Codes, scales, zero points and values."""
    shape = (math.ceil(weight.shape[0] / height), math.ceil(weight.shape[1] / width))
    grid, zero = torch.zeros(shape), torch.zeros(shape, dtype=torch.int8)
    codes, values = torch.zeros_like(weight, dtype=torch.int8), torch.zeros_like(weight)
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for i, j, down, across in blocks(weight, height, width):
        part = weight[down, across]
        if symmetric:
            grid[i, j] = part.abs().max() / most
        else:
            grid[i, j] = (part.max() - part.min()) / (most - least)
            zero[i, j] = int((least - part.min() / grid[i, j]).round().clamp(least, most))
        found = (part / grid[i, j]).round() + zero[i, j]
        codes[down, across] = found.clamp(least, most).to(torch.int8)
        values[down, across] = (codes[down, across].float() - zero[i, j].float()) * grid[i, j]
    return codes, grid, zero, values


def packed(codes: Tensor, bits: int) -> Tensor:
    """Rows of codes in rows of 32-bit words, the first code in the lowest bits, each code plus half its range."""
    half, each = 2 ** (bits - 1), 32 // bits

    def word(codes: list[int]) -> int:
        return sum((code + half) << (bits * at) for at, code in enumerate(codes))

    rows = [[word(row[start : start + each]) for start in range(0, len(row), each)] for row in codes.tolist()]
    return torch.from_numpy(np.array(rows, dtype=np.uint32).view(np.int32))


def words(weight: Tensor, bits: int, group: int, symmetric: bool) -> Made:
    codes, grid, zero, values = integers(weight, bits, 1, group, symmetric)
    made = {"_packed": packed(codes, bits), "_scale": grid, "_shape": torch.tensor(weight.shape)}
    if not symmetric:
        made["_zero_point"] = packed(zero.T, bits).T.contiguous()
    return made, values


def bytes_of(weight: Tensor, group: int, symmetric: bool) -> Made:
    codes, grid, zero, values = integers(weight, 8, 1, group, symmetric)
    return {"": codes, "_scale": grid} | ({} if symmetric else {"_zero_point": zero}), values


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": layout, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": ["lm_head"]}  # fmt: skip


def fine(weight: Tensor, kind: torch.dtype = torch.float32) -> Made:
    made, values = floats(weight, 48, 40, kind)
    return {"": made[""], "_scale_inv": made["_scale"]}, values


def of_one_scale(weight: Tensor) -> Made:
    made, values = floats(weight, *weight.shape)
    return {"": made[""], "_scale_inv": made["_scale"].reshape(())}, values


FORMATS: dict[str, tuple[Callable[[Tensor], Made], dict[str, Any]]] = {
    # Blocks that no weight of the models here divides into evenly.
    "fp8": (fine, {"quant_method": "fp8", "weight_block_size": [48, 40]}),
    "fp8-bf16-scales": (
        lambda w: fine(w, torch.bfloat16),
        {"quant_method": "fp8", "weight_block_size": [48, 40], "activation_scheme": "dynamic"},
    ),
    "fp8-tensor": (of_one_scale, {"quant_method": "fp8", "weight_block_size": None}),
    "ct-float-tensor": (
        lambda w: floats(w, *w.shape),
        compressed("float-quantized", type="float", num_bits=8, strategy="tensor"),
    ),
    "ct-float-channel": (
        lambda w: floats(w, 1, w.shape[1], torch.bfloat16),
        compressed("float-quantized", type="float", num_bits=8, strategy="channel"),
    ),
    "ct-float-block": (
        lambda w: floats(w, 48, 40),
        compressed("naive-quantized", type="float", num_bits=8, strategy="block", block_structure=[48, 40]),
    ),
    "ct-int8-channel": (
        lambda w: bytes_of(w, w.shape[1], True),
        compressed("int-quantized", type="int", num_bits=8, strategy="channel"),
    ),
    "ct-int8-group": (
        lambda w: bytes_of(w, 16, False),
        compressed("int-quantized", type="int", num_bits=8, strategy="group", group_size=16, symmetric=False),
    ),
    "ct-int4-group": (
        lambda w: words(w, 4, 16, True),
        compressed("pack-quantized", type="int", num_bits=4, strategy="group", group_size=16),
    ),
    "ct-int4-zero": (
        lambda w: words(w, 4, 16, False),
        compressed("pack-quantized", type="int", num_bits=4, strategy="group", group_size=16, symmetric=False),
    ),
    "ct-int8-packed": (
        lambda w: words(w, 8, w.shape[1], False),
        compressed("pack-quantized", type="int", num_bits=8, strategy="channel", symmetric=False),
    ),
}  # fmt: skip


def quantise(source: Path, coded: Path, dense: Path, form: str, dtype: torch.dtype = torch.float32) -> None:
    """``coded``: ``source`` with the matrices of its blocks in ``form``. ``dense``: the same values in ``dtype``."""
    quantiser, settings = FORMATS[form]
    tensors = load_file(source / "model.safetensors")
    stored: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("proj.weight") or (".experts." in name and name.endswith(".weight")):
            made, value = quantiser(tensor.float())
            stored |= {f"{name}{ending}": part for ending, part in made.items()}
            values[name] = value.to(dtype)
        else:
            stored[name] = values[name] = tensor
    write(source, coded, stored, settings)
    write(source, dense, values, None)


def mxfp4(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(experts, inputs, outputs) -> bytes, exponents and values, the experts' weights transposed in the files."""
    table = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    experts, inputs, outputs = weight.shape
    codes = torch.zeros(experts, outputs, inputs // 32, 16, dtype=torch.uint8)
    exponents = torch.zeros(experts, outputs, inputs // 32, dtype=torch.uint8)
    values = torch.zeros_like(weight, dtype=torch.float32)
    for expert, output, group in product(range(experts), range(outputs), range(inputs // 32)):
        inside = slice(group * 32, group * 32 + 32)
        part = weight[expert, inside, output].float()
        exponent = math.ceil(math.log2(float(part.abs().max()) / 6))
        size = (table * 2.0**exponent - part.abs().unsqueeze(1)).abs().argmin(1)
        code = (size + 8 * (part < 0)).to(torch.uint8)
        exponents[expert, output, group] = exponent + 127
        codes[expert, output, group] = code[0::2] + 16 * code[1::2]
        values[expert, inside, output] = torch.copysign(table[size] * 2.0**exponent, part)
    return codes, exponents, values


def quantise_experts(source: Path, coded: Path, dense: Path, dtype: torch.dtype = torch.float32) -> None:
    """As :func:`quantise`, for the experts of gpt-oss in MXFP4."""
    stored: dict[str, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith(("gate_up_proj", "down_proj")):
            stored[f"{name}_blocks"], stored[f"{name}_scales"], value = mxfp4(tensor)
            values[name] = value.to(dtype)
        else:
            stored[name] = values[name] = tensor
    write(source, coded, stored, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    write(source, dense, values, None)


def write(source: Path, folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any] | None) -> Path:
    """``folder``: everything of ``source`` but its tensors, which are ``tensors``, and ``settings`` in config.json."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    apart = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(apart, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    if settings is not None:
        config["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder
