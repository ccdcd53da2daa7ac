"""Identities of a checkpoint: a cheap one of its files as they lie there, and one of their content."""

import hashlib
from pathlib import Path

from spinal.checkpoints.checkpoint import ADAPTER_CONFIG, Checkpoint
from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER, PRESENT, Edition
from spinal.errors import (
    Cancelled,
)
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled

HASH_PIECE = 16 * 1024 * 1024
IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def snapshot_digest(checkpoint: Checkpoint, edition: Edition = PRESENT) -> str:
    """Cheap identity of the files as they lie there (names, sizes, times, safetensors headers): equal
    snapshots mean equal content for every purpose but forgery. See :func:`weights_digest` for content."""
    entries = []
    for file in _identity_files(checkpoint):
        status = file.stat()
        # Nanoseconds are more than RFC 8785 lets a number hold.
        changed = status.st_mtime_ns if edition == FORMER else str(status.st_mtime_ns)
        entries.append([str(file), status.st_size, changed])
    base = snapshot_digest(checkpoint.base, edition) if checkpoint.base else None
    return digest_of({"files": entries, "base": base}, edition.scheme)


def weights_digest(
    checkpoint: Checkpoint, *, progress: ProgressSink = ignore_progress, cancelled: CancelCheck = never_cancelled
) -> str:
    """sha256 over name and content of weights, config, tokenizer and adapter files; independent of place. Raises
    Cancelled."""
    return _content_digest(checkpoint, _Hashing(checkpoint, progress, cancelled))


def _content_digest(checkpoint: Checkpoint, hashing: "_Hashing") -> str:
    entries = {file.name: hashing.sha256(file) for file in _identity_files(checkpoint)}
    base = _content_digest(checkpoint.base, hashing) if checkpoint.base else None
    return digest_of({"files": entries, "base": base})


class _Hashing:
    """Reads files in pieces, so that it can say how far it is and stop in between."""

    def __init__(self, checkpoint: Checkpoint, progress: ProgressSink, cancelled: CancelCheck) -> None:
        parts = [checkpoint, *([checkpoint.base] if checkpoint.base else [])]
        self._total = sum(file.stat().st_size for part in parts for file in _identity_files(part))
        self._done = 0
        self._progress, self._cancelled = progress, cancelled

    def sha256(self, path: Path) -> str:
        hasher = hashlib.sha256()
        with path.open("rb") as stream:
            while piece := stream.read(HASH_PIECE):
                if self._cancelled():
                    raise Cancelled("cancelled in phase hash")
                hasher.update(piece)
                self._done += len(piece)
                # Of the whole run this is hardly anything.
                self._progress(Progress("hash", self._done, self._total, 0.0))
        return hasher.hexdigest()


def _identity_files(checkpoint: Checkpoint) -> list[Path]:
    named = [checkpoint.path / name for name in (*IDENTITY_FILES, ADAPTER_CONFIG)]
    return [*checkpoint.weight_files(), *(path for path in named if path.is_file())]
