"""The files of a folder against those that an attestation names."""

import hashlib
import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from spinal.checkpoints.files import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX,
    OF_TRAINERS,
    PICKLE_SUFFIXES,
    TOKENIZER_FILES,
    file_error,
)
from spinal.checkpoints.opening import open_regular
from spinal.documents.files import WEIGHTS_SUFFIX
from spinal.errors import AttestationRefused, UsageError
from spinal.errors.faults import shown

PIECE = 16 * 2**20
WEIGHTS = (WEIGHTS_SUFFIX, *PICKLE_SUFFIXES, ".gguf", ".h5", ".msgpack", ".onnx", ".distcp")
"""Endings of files that somebody may load weights from."""
SETTINGS = frozenset({CONFIG, ADAPTER_CONFIG, INDEX, *TOKENIZER_FILES})
MOST_NAMED = 3


def require_files(folder: Path, attested: Mapping[str, str]) -> None:
    """Raise AttestationRefused unless ``folder`` holds the attested files, by name and content, and beside them none
    that weights, a configuration or a tokenizer would be loaded from. Raises a file's error where it is no regular
    one, UsageError where there is no such folder."""
    if not folder.is_dir():
        raise UsageError(f"no folder at {folder}", hint="give the folder with the files of the model")
    wrong = [said for name in sorted(attested) if (said := _differs(folder, name, attested[name])) is not None]
    wrong += [f"{name} is not attested" for name in _loadable(folder) if name not in attested]
    if wrong:
        more = f", and {len(wrong) - MOST_NAMED} more" if len(wrong) > MOST_NAMED else ""
        raise AttestationRefused(
            f"the files are not those that were audited: {', '.join(map(shown, wrong[:MOST_NAMED]))}{more}",
            hint="fetch the model again, or have it audited as it is",
        )


def _differs(folder: Path, name: str, digest: str) -> str | None:
    # Whoever signed is trusted with what was measured, and with no path of this machine.
    if name != Path(name).name and (Path(name).is_absolute() or ".." in Path(name).parts):
        return f"{name} is no name of a file in a folder"
    try:
        descriptor = open_regular(folder / name, str(folder), file_error(name), None)
    except FileNotFoundError:
        return f"{name} is missing"
    hasher, at = hashlib.sha256(), 0
    try:
        while piece := os.pread(descriptor, PIECE, at):
            hasher.update(piece)
            at += len(piece)
    finally:
        os.close(descriptor)
    return None if hasher.hexdigest() == digest else f"{name} is another one"


def _loadable(folder: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(folder))
    return [name for name in names if name in SETTINGS or _may_hold_weights(name.lower())]


def _may_hold_weights(name: str) -> bool:
    # Whoever loads every safetensors file of a folder loads one that is called optimizer, too.
    trainers = name.endswith(PICKLE_SUFFIXES) and any(fnmatchcase(name, pattern) for pattern in OF_TRAINERS)
    return name.endswith(WEIGHTS) and not trainers
