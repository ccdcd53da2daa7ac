"""What lies in a store: how large it is, and when it was used last."""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from spinal.checkpoints.fetching.store import BLOBS, HEADERS, PARTS, ModelStore

BLOCK = 512
"""Bytes of a block in ``st_blocks``."""


@dataclass(frozen=True)
class Kept:
    """One file that counts; ``size`` in bytes, ``used`` in seconds of the epoch."""

    path: Path
    size: int
    used: float


def kept_files(store: ModelStore) -> Iterator[Kept]:
    """Whole files, stubs as far as they are written, and parts."""
    for area in (BLOBS, HEADERS, PARTS):
        for entry in files_below(store.folder / area):
            with suppress(FileNotFoundError):
                status, path = entry.stat(follow_symlinks=False), Path(entry.path)
                size = status.st_blocks * BLOCK if area == HEADERS else status.st_size
                yield Kept(path, size, status.st_mtime if area == PARTS else _last_use(store, path, status))


def _last_use(store: ModelStore, path: Path, status: os.stat_result) -> float:
    try:
        return store.stamp(path).stat().st_mtime
    except FileNotFoundError:
        return status.st_mtime


def files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The files in ``folder`` and in the folders in it."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            else:
                yield entry


def is_older(entry: os.DirEntry[str], than: float) -> bool:
    """Whether a file was last written before that time; one that is gone was not."""
    try:
        return entry.stat(follow_symlinks=False).st_mtime < than
    except FileNotFoundError:
        return False
