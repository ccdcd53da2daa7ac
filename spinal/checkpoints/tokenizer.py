"""The tokenizer file of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.errors import (
    TokenizerInvalid,
)


def tokenizer_file(checkpoint: Checkpoint) -> Path:
    return checkpoint.whole.path / "tokenizer.json"


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        tokenizer = json.loads(tokenizer_file(checkpoint).read_text(encoding="utf-8"))
        if isinstance(tokenizer, dict) and isinstance(tokenizer.get("model"), dict):
            return tokenizer
        problem = "it is not a tokenizer"
    except FileNotFoundError:
        problem = "it is missing"
    except (OSError, ValueError) as error:
        problem = str(error)
    raise TokenizerInvalid(
        f"{checkpoint.source}: tokenizer.json cannot be used ({problem})", hint="save the fast tokenizer with the model"
    )
