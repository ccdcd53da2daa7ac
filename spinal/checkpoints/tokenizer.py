"""The tokenizer of a checkpoint, as far as its files tell: whether there is one, which ids it knows, its identity."""

import hashlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import TOKENIZER, TOKENIZER_FILES, file_error, most_bytes, read_settings
from spinal.checkpoints.opening import read_regular
from spinal.checkpoints.unchanged import Remembered
from spinal.documents.canonical import digest_of
from spinal.errors import TokenizerInvalid

TOKENIZER_CONFIG = "tokenizer_config.json"
_known: Remembered[int] = Remembered(1024)
_digests: Remembered[str] = Remembered(1024)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether there is a tokenizer to read the checkpoint's prompts with, sound or not."""
    return TOKENIZER in checkpoint.tokenizing.files.settings


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tokenizer.json says. Raises TokenizerInvalid."""
    where = checkpoint.tokenizing
    try:
        tokenizer = read_settings(where.path, TOKENIZER, where.source, where.roots)
    except FileNotFoundError as error:
        detail = f"{where.source}: {TOKENIZER} cannot be used (it is missing)"
        raise TokenizerInvalid(detail, hint=_what_to_do(where)) from error
    if not isinstance(tokenizer.get("model"), dict):
        raise file_error(TOKENIZER)(f"{where.source}: {TOKENIZER} cannot be used (it is not a tokenizer)")
    return tokenizer


def known_ids(checkpoint: Checkpoint) -> int:
    """One more than the largest id that the tokenizer's files give a token. Ids need not be without gaps.

    Raises TokenizerInvalid.
    """
    where = checkpoint.tokenizing
    return _known.value((where.source, _place_of(where)), lambda: _files(checkpoint), lambda: _count_ids(checkpoint))


def _place_of(where: Checkpoint) -> Hashable:
    """Where its files may lie; of what lives elsewhere the folder is new each time, and its files are the same."""
    return where.roots if where.copy is None else where.copy.store


def _files(checkpoint: Checkpoint) -> list[Path]:
    where = checkpoint.tokenizing
    return [where.path / name for name in where.files.settings if name in TOKENIZER_FILES]


def _count_ids(checkpoint: Checkpoint) -> int:
    tokenizer = read_tokenizer(checkpoint)
    try:
        known = 1 + max(_ids(tokenizer, read_tokenizer_config(checkpoint)), default=-1)
    except (TypeError, KeyError, ValueError, AttributeError):
        known = 0
    if known < 1:
        raise file_error(TOKENIZER)(
            f"{checkpoint.tokenizing.source}: its tokenizer files do not say which ids the tokens have"
        )
    return known


def _ids(tokenizer: dict[str, Any], settings: dict[str, Any]) -> Iterator[int]:
    vocabulary = tokenizer["model"].get("vocab", {})
    # A dictionary of ids, or (Unigram) a list in the order of ids.
    yield from map(int, vocabulary.values()) if isinstance(vocabulary, dict) else range(len(vocabulary))
    yield from (int(token["id"]) for token in tokenizer.get("added_tokens") or [])
    yield from map(int, settings.get("added_tokens_decoder") or {})


def read_tokenizer_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``, empty where there is none; raises TokenizerInvalid."""
    where = checkpoint.tokenizing
    try:
        return read_settings(where.path, TOKENIZER_CONFIG, where.source, where.roots)
    except FileNotFoundError:
        return {}


def _what_to_do(checkpoint: Checkpoint) -> str:
    """Vocabulary and merges alone do not say how text is split: the class that knows it has to write the file."""
    parts = [name for name in ("vocab.json", "tokenizer.model") if (checkpoint.path / name).is_file()]
    if parts:
        return f"make it from {parts[0]}: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    return (
        "save the fast tokenizer with the model, compare with a reference that has one, or, on the command line, say "
        "where one lies: --tokenizer DIR"
    )


def tokenizer_digest(checkpoint: Checkpoint) -> str:
    """Identity of the tokenizer that reads the prompts: sha256 over name and content of its files.

    Raises TokenizerInvalid.
    """
    where = checkpoint.tokenizing

    def digest() -> str:
        found = {}
        for path in _files(checkpoint):
            make, most = file_error(path.name), most_bytes(path.name)
            raw = read_regular(path, where.source, make, most_bytes=most, roots=where.roots)
            found[path.name] = hashlib.sha256(raw).hexdigest()
        return digest_of({"files": found})

    return _digests.value((where.source, _place_of(where)), lambda: _files(checkpoint), digest)
