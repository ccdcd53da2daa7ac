"""Headers of weights files without the weights: sparse files of the listed size with the first bytes alone.

A header that was read from a source for itself is kept under the place where it was read, and believed of no other
place: nothing vouches for it. Of a file that was verified whole the header is kept under its content.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spinal.checkpoints.fetching.claims import Claim
from spinal.checkpoints.fetching.reads import Reading
from spinal.checkpoints.fetching.store import stub_name
from spinal.checkpoints.files import file_error
from spinal.checkpoints.tensors import MOST_HEADER, read_header
from spinal.errors import SpinalError

NO_SUCH_SIZE = frozenset({errno.EFBIG, errno.EINVAL})
LENGTH = 8
"""Bytes at the beginning of a safetensors file that say how long its header is."""


@dataclass
class StubJob:
    """The stub of one weights file, as ``folder / name`` of the listed file. ``size`` is what is read for it, which is
    not known before ``done`` says so."""

    reading: Reading
    claim: Claim
    folder: Path
    done: int = 0

    @property
    def size(self) -> int:
        return self.done

    def obtain(self) -> None:
        """Have the stub in the folder: a link to one that is kept, else a file. Raises WeightsCorrupt for a size that
        no file can have, and as :meth:`Reading.pour`."""
        target = self.folder / self.reading.listed.name
        kept = self._kept()
        if kept is None:
            kept = self._of_blob() or self._read(target)
        if kept is not None:
            target.unlink(missing_ok=True)
            target.symlink_to(kept)

    def _kept(self) -> Path | None:
        store, listed, pinned = self.claim.store, self.reading.listed, self.reading.pinned
        sha256 = store.known(pinned, listed)
        if sha256 is not None:
            path = store.header(f"sha256-{sha256}")
            if self.claim.use(path, listed.size):
                return path
        path = store.header(stub_name(pinned, listed))
        if listed.content is None and listed.tag is None and not self._is_recent(path):
            return None
        return path if self.claim.use(path, listed.size) else None

    def _is_recent(self, path: Path) -> bool:
        try:
            return self.claim.store.is_recent(path.stat().st_mtime)
        except FileNotFoundError:
            return False

    def _of_blob(self) -> Path | None:
        store, listed = self.claim.store, self.reading.listed
        sha256 = store.known(self.reading.pinned, listed)
        if sha256 is None or not self.claim.use(store.blob(sha256), listed.size):
            return None
        return keep_header(self.claim, sha256)

    def _read(self, target: Path) -> Path | None:
        """Read the header from the source. Where it is damaged it is not kept: the next one to ask reads it again."""
        listed, store = self.reading.listed, self.claim.store
        raw = _header_of(listed.size, self._ask)
        target.unlink(missing_ok=True)
        try:
            _write_stub(target, raw, listed.size)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in NO_SUCH_SIZE:
                raise
            raise file_error(listed.name)(
                f"{self.reading.called}: {listed.size} bytes are more than a file can have"
            ) from error
        if not _is_sound(target, self.reading.pinned.name):
            return None
        path = store.header(stub_name(self.reading.pinned, listed))
        return path if _keep(self.claim, raw, path, listed.size, anew=True) else None

    def _ask(self, start: int, end: int) -> bytes:
        found = bytearray()

        def take(piece: bytes) -> None:
            found.extend(piece)
            self.done += len(piece)

        self.reading.pour(start, end, take)
        return bytes(found)


def keep_header(claim: Claim, sha256: str) -> Path | None:
    """Keep the header of a verified weights file, which then is known when the file itself had to go. Returns where;
    None where there is no room."""
    path, blob = claim.store.header(f"sha256-{sha256}"), claim.store.blob(sha256)
    with blob.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if claim.use(path, size):
            return path
        raw = _header_of(size, lambda start, end: _pread(stream.fileno(), start, end))
    return path if _keep(claim, raw, path, size) else None


def _keep(claim: Claim, raw: bytes, path: Path, size: int, *, anew: bool = False) -> bool:
    made = claim.store.new_path()
    try:
        _write_stub(made, raw, size)
        return claim.place_if_it_fits(made, path, size, anew=anew)
    finally:
        made.unlink(missing_ok=True)


def _write_stub(path: Path, raw: bytes, size: int) -> None:
    """A sparse file of that size that begins with ``raw``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as stream:
        stream.truncate(size)
        left = memoryview(raw)
        while left:
            left = left[stream.write(left) :]
        os.fsync(descriptor)


def _header_of(size: int, ask: Callable[[int, int], bytes]) -> bytes:
    """So many bytes of a file that ``read_header`` finds in them what it finds in all of it."""
    first = ask(0, min(LENGTH, size))
    length = int.from_bytes(first, "little")
    if size < LENGTH or length > min(size - LENGTH, MOST_HEADER):
        return first
    return first + ask(LENGTH, LENGTH + length)


def _pread(descriptor: int, start: int, end: int) -> bytes:
    found = b""
    while len(found) < end - start and (piece := os.pread(descriptor, end - start - len(found), start + len(found))):
        found += piece
    return found


def _is_sound(path: Path, source: str) -> bool:
    try:
        read_header(path, source)
    except SpinalError:
        return False
    return True
