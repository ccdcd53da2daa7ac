"""Which files of a folder hold the weights, and whether the index agrees with them."""

import json
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.errors import (
    ConfigInvalid,
    PickleWeightsRefused,
    WeightsCorrupt,
    WeightsMissing,
)

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def read_config(path: Path, source: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigInvalid(f"{source} has no {path.name}", hint="save the model with save_pretrained()") from error
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"{source}: {path.name} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise ConfigInvalid(f"{source}: {path.name} is not a JSON object")
    return config


def check_weight_files(checkpoint: Checkpoint) -> list[Path]:
    files = checkpoint.weight_files()
    if files:
        return files
    pickles = sorted(p.name for p in checkpoint.path.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise PickleWeightsRefused(
            f"{checkpoint.source} holds only pickle weights ({pickles[0]}), which can run code when read",
            hint="convert them where you trust them: load the model and call save_pretrained(safe_serialization=True)",
        )
    raise WeightsMissing(
        f"{checkpoint.source} holds no *.safetensors file", hint="save the model with save_pretrained()"
    )


def check_index(checkpoint: Checkpoint, headers: dict[Path, dict[str, Any]]) -> None:
    path = checkpoint.path / "model.safetensors.index.json"
    if not path.is_file():
        return
    weight_map = read_config(path, checkpoint.source).get("weight_map")
    if not isinstance(weight_map, dict):
        raise WeightsCorrupt(f"{checkpoint.source}: {path.name} has no weight_map")
    by_name = {file.name: header for file, header in headers.items()}
    for tensor, shard in weight_map.items():
        if shard not in by_name:
            raise WeightsMissing(f"{checkpoint.source}: shard {shard} is missing", hint="copy all shards")
        if tensor not in by_name[shard]:
            raise WeightsCorrupt(
                f"{checkpoint.source}: shard {shard} lacks tensor {tensor}", hint="copy the file again"
            )
