"""Whether the shards of a checkpoint and their index agree. No torch."""

from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import INDEX, read_settings
from spinal.errors import WeightsCorrupt


def check_shards(checkpoint: Checkpoint, headers: dict[Path, dict[str, Any]]) -> None:
    """Raise WeightsCorrupt unless every tensor lies in one file, and where an index was read in the one it says."""
    where: dict[str, str] = {}
    for file, header in headers.items():
        for tensor in header:
            if tensor in where:
                raise WeightsCorrupt(
                    f"{checkpoint.source}: tensor {tensor} lies in {where[tensor]} and in {file.name}",
                    hint="save the model with save_pretrained(), into an empty folder",
                )
            where[tensor] = file.name
    if INDEX not in checkpoint.files.settings:
        return
    weight_map = read_settings(checkpoint.path, INDEX, checkpoint.source, checkpoint.roots)["weight_map"]
    for tensor, shard in weight_map.items():
        if where.get(tensor) != shard:
            raise WeightsCorrupt(
                f"{checkpoint.source}: shard {shard} lacks tensor {tensor}", hint="copy the file again"
            )
