"""The tokenizer files of a checkpoint, as they lie there. No torch."""

import json
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.errors import TokenizerInvalid


def tokenizer_file(checkpoint: Checkpoint) -> Path:
    return checkpoint.whole.path / "tokenizer.json"


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of ``tokenizer.json``; raises TokenizerInvalid."""
    try:
        tokenizer = json.loads(tokenizer_file(checkpoint).read_text(encoding="utf-8"))
        if isinstance(tokenizer, dict) and isinstance(tokenizer.get("model"), dict):
            return tokenizer
        problem = "it is not a tokenizer"
    except FileNotFoundError:
        problem = "it is missing"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise TokenizerInvalid(f"{checkpoint.source}: tokenizer.json cannot be used ({problem})", hint=_hint(checkpoint))


def read_tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``, empty where there is none; raises TokenizerInvalid."""
    path = checkpoint.whole.path / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerInvalid(f"{checkpoint.source}: {path.name} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise TokenizerInvalid(f"{checkpoint.source}: {path.name} is not a JSON object")
    return config


def _hint(checkpoint: Checkpoint) -> str:
    parts = [name for name in ("vocab.json", "tokenizer.model") if (checkpoint.whole.path / name).is_file()]
    if parts:
        return (
            f"{parts[0]} alone does not say how text is split: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    return "save the fast tokenizer with the model"
