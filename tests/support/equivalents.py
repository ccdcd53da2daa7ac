"""Checkpoints that compute the same function as another one, written out otherwise.

Each takes the folder of a checkpoint of the Llama kind, Mixtral, GPT-NeoX or GPT-2 and writes another. What a
comparison
finds between the two is rounding, or the frame.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensor = torch.Tensor
Weights = dict[str, Tensor]
BLOCK = re.compile(r"^(.*?\.(?:layers|h)\.\d+\.)(.*)$")
READS_ATTENTION = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
READS_MLP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
WRITES = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
ALL_PARTS = ("neurons", "heads", "experts")


def rewritten(
    folder: Path, target: Path, change: Callable[[Weights, dict[str, Any]], Weights], **settings: Any
) -> Path:
    """A copy of a checkpoint whose tensors went through ``change`` (float64 and its configuration in, float64 out);
    they are stored in the types that they had. ``settings`` are set in the configuration."""
    shutil.copytree(folder, target)
    config = json.loads((target / "config.json").read_text())
    stored = load_file(target / "model.safetensors")
    one = next(iter(stored.values())).dtype
    made = change({name: tensor.double() for name, tensor in stored.items()}, config)
    saved = {n: t.to(stored[n].dtype if n in stored else one).contiguous() for n, t in made.items()}
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config | settings))
    return target


def untied(folder: Path, target: Path, dtype: torch.dtype = torch.float32) -> Path:
    """With a head of its own, in ``dtype``."""
    rewritten(folder, target, lambda w, _: _with_head(w), tie_word_embeddings=False, dtype=str(dtype).split(".")[1])
    stored = load_file(target / "model.safetensors")
    saved = {name: tensor.to(dtype).contiguous() for name, tensor in stored.items()}
    save_file(saved, target / "model.safetensors", metadata={"format": "pt"})
    return target


def _with_head(weights: Weights) -> Weights:
    return {"lm_head.weight": weights["model.embed_tokens.weight"].clone()} | weights


def permuted(folder: Path, target: Path, seed: int, parts: tuple[str, ...] = ALL_PARTS) -> Path:
    """Neurons, heads (inside groups of keys and values, and the groups) and experts of every block in another order."""
    generator = torch.Generator().manual_seed(seed)

    def order(count: int) -> Tensor:
        return torch.randperm(count, generator=generator)

    def change(weights: Weights, config: dict[str, Any]) -> Weights:
        found = dict(weights)
        for place in dict.fromkeys(match[1] for name in weights if (match := BLOCK.match(name))):
            inside = {name.removeprefix(place): found[name] for name in weights if name.startswith(place)}
            if "neurons" in parts:
                _permute_neurons(inside, order)
            if "heads" in parts:
                _permute_heads(inside, config, order)
            if "experts" in parts:
                _permute_experts(inside, order)
            found |= {place + name: tensor for name, tensor in inside.items()}
        return found

    return rewritten(folder, target, change)


def _permute_neurons(block: Weights, order: Callable[[int], Tensor]) -> None:
    """In an MLP, or in each expert: rows of what reads, columns of what writes."""
    groups: list[tuple[tuple[str, ...], str, int]] = [
        (READS_MLP, "mlp.down_proj.weight", 0),
        (("mlp.dense_h_to_4h.weight", "mlp.dense_h_to_4h.bias"), "mlp.dense_4h_to_h.weight", 0),
        (("mlp.c_fc.weight", "mlp.c_fc.bias"), "mlp.c_proj.weight", 1),
    ]
    for name in list(block):
        if name.endswith(".w2.weight"):
            expert = name.removesuffix("w2.weight")
            groups.append(((f"{expert}w1.weight", f"{expert}w3.weight"), name, 0))
    for reading, writing, transposed in groups:
        if writing not in block:
            continue
        neurons = order(block[writing].shape[0 if transposed else 1])
        for name in reading:
            tensor = block[name]
            block[name] = tensor[:, neurons] if transposed and tensor.dim() == 2 else tensor[neurons]
        block[writing] = block[writing][neurons] if transposed else block[writing][:, neurons]


def _permute_heads(block: Weights, config: dict[str, Any], order: Callable[[int], Tensor]) -> None:
    heads = config.get("num_attention_heads") or config["n_head"]
    if "self_attn.q_proj.weight" in block:
        groups = config.get("num_key_value_heads") or heads
        width = block["self_attn.q_proj.weight"].shape[0] // heads
        outer = order(groups)
        inner = torch.cat([group * (heads // groups) + order(heads // groups) for group in outer.tolist()])
        queries, shared = _rows_of(inner, width), _rows_of(outer, width)
        for kind, rows in (("q", queries), ("k", shared), ("v", shared)):
            for part in ("weight", "bias"):
                if f"self_attn.{kind}_proj.{part}" in block:
                    block[f"self_attn.{kind}_proj.{part}"] = block[f"self_attn.{kind}_proj.{part}"][rows]
        block["self_attn.o_proj.weight"] = block["self_attn.o_proj.weight"][:, queries]
    elif "attention.query_key_value.weight" in block:
        chosen = order(heads)
        rows = _rows_of(chosen, block["attention.query_key_value.weight"].shape[0] // heads)
        for part in ("weight", "bias"):
            block[f"attention.query_key_value.{part}"] = block[f"attention.query_key_value.{part}"][rows]
        width = block["attention.dense.weight"].shape[1] // heads
        block["attention.dense.weight"] = block["attention.dense.weight"][:, _rows_of(chosen, width)]
    elif "attn.c_attn.weight" in block:
        chosen, size = order(heads), block["attn.c_proj.weight"].shape[0]
        one = _rows_of(chosen, size // heads)
        columns = torch.cat([one, one + size, one + 2 * size])
        block["attn.c_attn.weight"] = block["attn.c_attn.weight"][:, columns]
        block["attn.c_attn.bias"] = block["attn.c_attn.bias"][columns]
        block["attn.c_proj.weight"] = block["attn.c_proj.weight"][one]


def _rows_of(heads: Tensor, width: int) -> Tensor:
    return (heads[:, None] * width + torch.arange(width)).reshape(-1)


def _permute_experts(block: Weights, order: Callable[[int], Tensor]) -> None:
    gate = "block_sparse_moe.gate.weight"
    if gate not in block:
        return
    experts = order(block[gate].shape[0])
    block[gate] = block[gate][experts]
    before = dict(block)
    for new, old in enumerate(experts.tolist()):
        for part in ("w1", "w2", "w3"):
            place = "block_sparse_moe.experts.{}.{}.weight"
            block[place.format(new, part)] = before[place.format(old, part)]


def with_gains(folder: Path, target: Path, factor: float) -> Path:
    """Every gain of a norm ahead of a block's halves times ``factor``, and the matrices that it feeds through it."""

    def change(weights: Weights, config: dict[str, Any]) -> Weights:
        del config
        return {name: tensor * _gain(name, factor) for name, tensor in weights.items()}

    return rewritten(folder, target, change)


def _gain(name: str, factor: float) -> float:
    if name.endswith(("input_layernorm.weight", "post_attention_layernorm.weight")):
        return factor
    return 1.0 / factor if name.endswith((*READS_ATTENTION, *READS_MLP)) else 1.0


def with_residual_times(folder: Path, target: Path, factor: float) -> Path:
    """The whole residual stream times ``factor``, with a head of its own (RMS norms without bias)."""

    def change(weights: Weights, config: dict[str, Any]) -> Weights:
        del config
        whole = _with_head(weights)
        larger = ("embed_tokens.weight", *WRITES)
        return {name: tensor * (factor if name.endswith(larger) else 1.0) for name, tensor in whole.items()}

    return rewritten(folder, target, change, tie_word_embeddings=False)


def with_basis_rotated(folder: Path, target: Path, seed: int) -> Path:
    """The residual stream in another orthonormal basis: gains are folded into what they feed, then everything that
    reads or writes the stream turns with it (RMS norms)."""

    def change(weights: Weights, config: dict[str, Any]) -> Weights:
        width = config["hidden_size"]
        generator = torch.Generator().manual_seed(seed)
        turn, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, generator=generator))
        whole = _with_head(weights)
        found = {}
        for name, tensor in whole.items():
            if name.endswith("norm.weight"):
                found[name] = torch.ones_like(tensor)
            elif name.endswith(WRITES):
                found[name] = turn.T @ tensor
            elif name.endswith("embed_tokens.weight"):
                found[name] = tensor @ turn
            else:
                found[name] = (tensor * _fed_by(whole, name)) @ turn
        return found

    return rewritten(folder, target, change, tie_word_embeddings=False)


def _fed_by(weights: Weights, name: str) -> Tensor:
    """The gain of the norm ahead of a matrix."""
    if name == "lm_head.weight":
        return weights["model.norm.weight"]
    match = BLOCK.match(name)
    assert match is not None, name
    norm = "input_layernorm" if match[2] in READS_ATTENTION else "post_attention_layernorm"
    return weights[f"{match[1]}{norm}.weight"]
