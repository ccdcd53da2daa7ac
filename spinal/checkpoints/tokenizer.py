"""The tokenizer of a checkpoint, as far as its files tell: whether there is one, which ids it knows, its identity."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import read_config
from spinal.checkpoints.unchanged import Unchanged
from spinal.documents.canonical import digest_of
from spinal.errors import (
    TokenizerInvalid,
)

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
_known = Unchanged(1024)
_digests = Unchanged(1024)


def tokenizer_file(checkpoint: Checkpoint) -> Path:
    return checkpoint.tokenizing.path / "tokenizer.json"


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether the folder that reads the checkpoint's prompts holds a tokenizer, sound or not."""
    return tokenizer_file(checkpoint).is_file()


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
        f"{checkpoint.tokenizing.source}: tokenizer.json cannot be used ({problem})",
        hint="save the fast tokenizer with the model, or say where one lies: --tokenizer DIR",
    )


def tokenizer_files(checkpoint: Checkpoint) -> list[Path]:
    """The files of the tokenizer that reads the prompts."""
    folder = checkpoint.tokenizing.path
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def known_ids(checkpoint: Checkpoint) -> int:
    """One more than the largest id that the tokenizer's files give a token. Ids need not be without gaps.

    Raises TokenizerInvalid, ConfigInvalid.
    """
    return _known.check(None, lambda: tokenizer_files(checkpoint), lambda: _count_ids(checkpoint))


def _count_ids(checkpoint: Checkpoint) -> int:
    tokenizer = read_tokenizer(checkpoint)
    try:
        known = 1 + max(_ids(tokenizer, _settings(checkpoint)), default=-1)
    except (TypeError, KeyError, ValueError, AttributeError):
        known = 0
    if known < 1:
        raise TokenizerInvalid(
            f"{checkpoint.tokenizing.source}: its tokenizer files do not say which ids the tokens have",
            hint="save the fast tokenizer with the model",
        )
    return known


def _ids(tokenizer: dict[str, Any], settings: dict[str, Any]) -> Iterator[int]:
    vocabulary = tokenizer["model"].get("vocab", {})
    # A dictionary of ids, or (Unigram) a list in the order of ids.
    yield from map(int, vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
    yield from (int(token["id"]) for token in tokenizer.get("added_tokens") or [])
    yield from map(int, settings.get("added_tokens_decoder") or {})


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tokenizer_config.json says."""
    path = checkpoint.tokenizing.path / "tokenizer_config.json"
    return read_config(path, checkpoint.tokenizing.source) if path.is_file() else {}


def tokenizer_digest(checkpoint: Checkpoint) -> str:
    """Identity of the tokenizer that reads the prompts: sha256 over name and content of its files."""

    def digest() -> str:
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tokenizer_files(checkpoint)}
        return digest_of({"files": files})

    return _digests.check(None, lambda: tokenizer_files(checkpoint), digest)
