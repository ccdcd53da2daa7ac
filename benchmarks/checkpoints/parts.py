"""A checkpoint opened to be changed: its places found by data flow, the parts inside a block by their names.

Names are needed only for what keeps a function (which matrices feed each other); llama-like models, GPT-2 and GPT-NeoX
are known. Everything else works on whatever ``spinal.engine.anatomy`` finds.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from spinal.engine.anatomy import Anatomy, find_anatomy
from spinal.engine.quiet import quiet

Tensor = torch.Tensor
Linear = nn.Linear | Conv1D
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")
"""What ``save_pretrained`` of a model writes; everything else is copied as it is."""


class Unknown(ValueError):
    """This kind of change cannot be made in such a model."""


@dataclass(eq=False)
class Opened:
    """A model in float32 with a head of its own, and what text for it looks like."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    usual: list[list[int]]
    """Token ids of the texts that an audit reads."""
    foreign: list[list[int]]
    """Token ids of texts of the category that is to be destroyed."""
    seed: int = 0

    @property
    def blocks(self) -> nn.ModuleList:
        return self.anatomy.blocks

    @property
    def head(self) -> Tensor:
        """Rows of the vocabulary, hidden."""
        return self.anatomy.head_weight

    @property
    def embeddings(self) -> Tensor:
        """Rows of the vocabulary, hidden."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[assignment]  # an nn.Embedding
        return weight

    @property
    def end(self) -> int:
        """Id of the end token; raises Unknown where there is none."""
        found = self.model.config.eos_token_id
        if found is None:
            raise Unknown("the configuration names no end token")
        return int(found[0] if isinstance(found, list) else found)

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def opened(
    folder: Path, usual: Sequence[str] = (), foreign: Sequence[str] = (), *, seed: int = 0, untied: bool = True
) -> Opened:
    """Open a checkpoint folder to change the model in place."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    model.requires_grad_(False)
    if untied:
        untie(model)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [list(tokenizer(text)["input_ids"]) for text in texts]

    anatomy = find_anatomy(model, model.config.get_text_config().num_hidden_layers, folder.name)
    return Opened(folder, model, tokenizer, anatomy, ids(usual), ids(foreign), seed)


def untie(model: PreTrainedModel) -> None:
    """Give the head a matrix of its own, so that embeddings and unembedding can be changed apart."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.update({"tie_word_embeddings": False})


def write(model: Opened, out: Path) -> Path:
    """Write the changed model to the folder ``out``, with the tokenizer and the template of the original."""
    shutil.copytree(model.folder, out, ignore=shutil.ignore_patterns(*WEIGHTS))
    with quiet():
        model.model.save_pretrained(out)
    generation = model.folder / "generation_config.json"
    if generation.exists():
        shutil.copyfile(generation, out / generation.name)
    return out


def edit_json(path: Path, **members: Any) -> None:
    """Set members of a JSON file, which is made where it does not exist."""
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(held | members, indent=2), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Half:
    """One half of a block: a norm, the matrices that read what it gives, and the one that writes to the residual."""

    norm: nn.Module
    reads: tuple[Linear, ...]
    writes: Linear


def gain(norm: nn.Module) -> Tensor:
    """A norm's factor for each channel."""
    weight: Tensor = norm.weight  # type: ignore[assignment]  # a norm's gain
    return weight


READS_MLP = (("gate_proj", "up_proj"), ("c_fc",), ("dense_h_to_4h",))
READS_ATTENTION = (("q_proj", "k_proj", "v_proj"), ("c_attn",), ("query_key_value",))
WRITES_MLP = ("down_proj", "dense_4h_to_h", "c_proj")
WRITES_ATTENTION = ("o_proj", "dense", "c_proj")
NORMS = (("input_layernorm", "post_attention_layernorm"), ("ln_1", "ln_2"))


def halves(block: nn.Module) -> tuple[Half, Half]:
    """Attention and MLP of one block; raises Unknown."""
    mlp = _half(block, READS_MLP, WRITES_MLP)
    attention = _half(block, READS_ATTENTION, WRITES_ATTENTION)
    norms = next((pair for pair in NORMS if all(hasattr(block, name) for name in pair)), None)
    others = [name for name, _ in block.named_children() if "norm" in name or name.startswith("ln")]
    if norms is None or len(others) != 2:
        raise Unknown(f"which norm feeds what in {type(block).__name__} is not known")
    return Half(getattr(block, norms[0]), *attention), Half(getattr(block, norms[1]), *mlp)


def _half(
    block: nn.Module, reads: Sequence[tuple[str, ...]], writes: Sequence[str]
) -> tuple[tuple[Linear, ...], Linear]:
    for part in block.children():
        named = dict(part.named_children())
        for names in reads:
            if all(isinstance(named.get(name), Linear) for name in names):
                out = next((named[name] for name in writes if name in named), None)
                if isinstance(out, Linear):
                    return tuple(named[name] for name in names), out  # type: ignore[misc]  # checked above
    raise Unknown(f"the matrices of {type(block).__name__} have names that are not known here")


def matrix(layer: Linear) -> Tensor:
    """The layer's matrix as (out, in), a view that can be written to."""
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def outputs(layer: Linear) -> Iterator[Tensor]:
    """Views whose first dimension is what the layer puts out: its matrix, and its bias where it has one."""
    yield matrix(layer)
    if layer.bias is not None:
        yield layer.bias
