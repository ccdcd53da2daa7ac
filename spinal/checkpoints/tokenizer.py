"""The tokenizer files of a checkpoint, as they lie there. No torch."""

from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import file_error, read_settings
from spinal.errors import TokenizerInvalid

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"


def tokenizer_file(checkpoint: Checkpoint) -> Path:
    return checkpoint.whole.path / TOKENIZER


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of ``tokenizer.json``; raises TokenizerInvalid."""
    whole = checkpoint.whole
    try:
        tokenizer = read_settings(whole.path, TOKENIZER, checkpoint.source, whole.roots)
    except FileNotFoundError as error:
        detail = f"{checkpoint.source}: {TOKENIZER} cannot be used (it is missing)"
        raise TokenizerInvalid(detail, hint=_what_to_do(whole)) from error
    if not isinstance(tokenizer.get("model"), dict):
        raise file_error(TOKENIZER)(f"{checkpoint.source}: {TOKENIZER} cannot be used (it is not a tokenizer)")
    return tokenizer


def read_tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``, empty where there is none; raises TokenizerInvalid."""
    whole = checkpoint.whole
    try:
        return read_settings(whole.path, TOKENIZER_CONFIG, checkpoint.source, whole.roots)
    except FileNotFoundError:
        return {}


def _what_to_do(checkpoint: Checkpoint) -> str:
    """Vocabulary and merges alone do not say how text is split: the class that knows it has to write the file."""
    parts = [name for name in ("vocab.json", "tokenizer.model") if (checkpoint.path / name).is_file()]
    if parts:
        return f"make it from {parts[0]}: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    return "save the fast tokenizer with the model"
