"""The checkpoints with a known history, rebuilt from ``sft`` and the tensors that differ from it.

``python examples/history_checkpoints.py OUT`` writes all of them below OUT in Hugging Face layout.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = Path(__file__).resolve().parent
PAIR = HERE / "checkpoints"
CHANGES = HERE / "history"
REBUILT = (
    "sft-twin",
    "dpo-overoptimised",
    "dpo-broken",
    "dpo-blocks-1-7",
    "dpo-blocks-9-15",
    "dpo-blocks-18-24",
)
"""Full checkpoints stored as differences; ``lora-adapter`` is stored whole."""


def rebuild(name: str, out: Path) -> Path:
    """Write checkpoint ``name`` to ``out / name`` and return that folder. bf16 travels as raw 16-bit words,
    so the rebuilt tensors are bit for bit those of the original."""
    folder = out / name
    if name in ("sft", "dpo-short"):
        shutil.copytree(PAIR / name, folder)
        return folder
    if name == "lora-adapter":
        shutil.copytree(CHANGES / name, folder)
        return folder
    shutil.copytree(PAIR / "sft", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    raw = bytearray((PAIR / "sft" / "model.safetensors").read_bytes())
    for offset, words in _changes(name):
        raw[offset : offset + words.nbytes] = words.tobytes()
    (folder / "model.safetensors").write_bytes(raw)
    return folder


def _changes(name: str) -> list[tuple[int, np.ndarray]]:
    stored = load_file(CHANGES / f"{name}.safetensors")
    return [(int(key), words) for key, words in stored.items()]


def store_changes(name: str, original: Path) -> None:
    """Record where ``original``'s weight file differs from that of ``sft`` (same layout), as 16-bit words."""
    base = (PAIR / "sft" / "model.safetensors").read_bytes()
    other = (original / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(base[:8], "little")
    if other[:header] != base[:header]:
        raise ValueError(f"{name}: header differs from that of sft")
    mine = np.frombuffer(base[header:], dtype=np.uint16)
    theirs = np.frombuffer(other[header:], dtype=np.uint16)
    changed = np.flatnonzero(mine != theirs)
    # Runs closer than 4096 words are merged: few, large pieces keep the file simple.
    cuts = np.flatnonzero(np.diff(changed) > 4096)
    starts = changed[np.concatenate([[0], cuts + 1])]
    stops = changed[np.concatenate([cuts, [changed.size - 1]])] + 1
    pieces = {
        str(header + 2 * int(start)): theirs[start:stop].copy() for start, stop in zip(starts, stops, strict=True)
    }
    save_file(pieces, CHANGES / f"{name}.safetensors")


def main(out: Path) -> None:
    for name in ("sft", "dpo-short", "lora-adapter", *REBUILT):
        print(rebuild(name, out))  # noqa: T201  a command's output


if __name__ == "__main__":
    main(Path(sys.argv[1]))
