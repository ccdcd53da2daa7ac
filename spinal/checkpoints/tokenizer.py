"""The tokenizer file of a checkpoint."""

from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import file_error, read_settings

TOKENIZER = "tokenizer.json"


def tokenizer_file(checkpoint: Checkpoint) -> Path:
    return checkpoint.whole.path / TOKENIZER


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    whole = checkpoint.whole
    make = file_error(TOKENIZER)
    try:
        tokenizer = read_settings(whole.path, TOKENIZER, checkpoint.source, whole.roots)
    except FileNotFoundError as error:
        raise make(f"{checkpoint.source}: {TOKENIZER} cannot be used (it is missing)") from error
    if not isinstance(tokenizer.get("model"), dict):
        raise make(f"{checkpoint.source}: {TOKENIZER} cannot be used (it is not a tokenizer)")
    return tokenizer
