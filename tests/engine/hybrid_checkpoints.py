"""Checkpoints on disk with some places from one model and the rest from another, and what transformers makes of them.

Places are told by the names of the stored tensors; nothing here shares code with ``spinal.engine.stitch``.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

BLOCK = re.compile(r"\.(?:layers|h)\.(\d+)\.")
END = re.compile(r"^(?:lm_head|embed_out)\.|\.(?:norm|ln_f|final_layer_norm)\.")
HEADS = {"gpt2": "lm_head.weight"}


def place_of(name: str, blocks: int) -> int:
    """From 0: embeddings, blocks, read-out."""
    block = BLOCK.search(f".{name}")
    if block:
        return 1 + int(block.group(1))
    return blocks + 1 if END.search(name) else 0


def untied(folder: Path) -> dict[str, torch.Tensor]:
    """Stored tensors, with a head of its own where it is tied."""
    tensors = load_file(folder / "model.safetensors")
    if not any(name.startswith(("lm_head.", "embed_out.")) for name in tensors):
        table = next(t for n, t in tensors.items() if n.endswith(("embed_tokens.weight", "wte.weight")))
        tensors["lm_head.weight"] = table.clone()
    return tensors


def write_hybrid(reference: Path, candidate: Path, sides: Sequence[str], configuration: str, target: Path) -> Path:
    """A checkpoint with the tensors of place i from ``sides[i]`` ("b" or "a", the reference or the candidate) and the
    configuration of one of them."""
    folders = {"b": reference, "a": candidate}
    shutil.copytree(folders[configuration], target)
    tensors = {side: untied(folder) for side, folder in folders.items()}
    config = json.loads((target / "config.json").read_text())
    blocks = len(sides) - 2
    mixed = {name: tensors[sides[place_of(name, blocks)]][name].contiguous() for name in tensors["b"]}
    save_file(mixed, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    return target


def log_probabilities(model: Any, ids: Sequence[int], vocabulary: int) -> torch.Tensor:
    """(T, V) of the next token at every position, over the first ``vocabulary`` ids, float64; one text, no padding."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits[:, :vocabulary].double().log_softmax(-1)


def opened(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()
