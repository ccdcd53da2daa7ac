"""Candidates made from ``examples/checkpoints/sft`` by edits of known place, with the reference that they are held
against: the same model in float32, its head untied from its embeddings."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.places import EXAMPLES

EMBEDDINGS, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
BLOCK = re.compile(r"model\.layers\.(\d+)\.")
Tensors = dict[str, torch.Tensor]
Edit = Callable[[Tensors], Tensors]


def block_of(name: str) -> int | None:
    """The block of a tensor, from 1; None outside the blocks."""
    found = BLOCK.match(name)
    return None if found is None else int(found[1]) + 1


def read(name: str) -> Tensors:
    """An example checkpoint's tensors in float32, untied."""
    tensors = {
        key: value.float() for key, value in load_file(EXAMPLES / "checkpoints" / name / "model.safetensors").items()
    }
    return tensors | {HEAD: tensors[EMBEDDINGS].clone()}


def save(folder: Path, tensors: Tensors, settings: dict[str, object] | None = None) -> Path:
    """A checkpoint folder with ``settings`` changed in its configuration."""
    source = EXAMPLES / "checkpoints" / "sft"
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    config = json.loads((source / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "dtype": "float32", **(settings or {})}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    return folder


def noisy(size: float, touched: Callable[[str], bool], seed: int = 0) -> Edit:
    """Matrices that are ``touched`` move in a random direction by ``size`` of their norm."""

    def edit(tensors: Tensors) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        made = dict(tensors)
        for name, tensor in tensors.items():
            if touched(name) and tensor.dim() == 2:
                noise = torch.randn(tensor.shape, generator=generator)
                made[name] = tensor + size * tensor.norm() / noise.norm() * noise
        return made

    return edit


def in_blocks(*runs: tuple[int, int]) -> Callable[[str], bool]:
    def touched(name: str) -> bool:
        block = block_of(name)
        return block is not None and any(low <= block <= high for low, high in runs)

    return touched


def exchanged(one: int, other: int) -> Edit:
    """Two blocks in each other's place."""

    def edit(tensors: Tensors) -> Tensors:
        place = {one: other, other: one}
        made = {}
        for name, tensor in tensors.items():
            block = block_of(name)
            to = place.get(block or 0, block)
            made[name if to is None else BLOCK.sub(f"model.layers.{to - 1}.", name)] = tensor
        return made

    return edit


def soup(other: Tensors) -> Edit:
    """The mean of two models."""
    return lambda tensors: {name: (tensor + other[name]) / 2 for name, tensor in tensors.items()}


def permuted(seed: int = 0) -> Edit:
    """The neurons of every MLP in another order: the same function."""

    def edit(tensors: Tensors) -> Tensors:
        generator = torch.Generator().manual_seed(seed)
        made = dict(tensors)
        for name in tensors:
            if name.endswith("mlp.gate_proj.weight"):
                order = torch.randperm(tensors[name].shape[0], generator=generator)
                for part, axis in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
                    key = name.replace("gate_proj", part)
                    made[key] = tensors[key].index_select(axis, order)
        return made

    return edit


def each(edits: Sequence[Edit]) -> Edit:
    def edit(tensors: Tensors) -> Tensors:
        for one in edits:
            tensors = one(tensors)
        return tensors

    return edit
