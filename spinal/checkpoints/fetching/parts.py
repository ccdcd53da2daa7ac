"""From a file of a source to a verified one of the store.

Bytes go into a part under another name. Only a part whose every byte was hashed by this process and that is what the
source declares gets a name in the store. What a killed process left of a part is hashed first and then continued.
"""

import errno
import hashlib
import os
import secrets
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from spinal.checkpoints.fetching.claims import Claim
from spinal.checkpoints.fetching.locks import try_lock
from spinal.checkpoints.fetching.reads import Reading
from spinal.checkpoints.fetching.store import key_name, place_name
from spinal.checkpoints.files import file_error
from spinal.errors import SpinalError, StorageUnavailable, WeightsCorrupt

TRIES = 3
"""So often a file is fetched whole before it is said to be another one than the source declares."""
FROZEN_S = 60.0
"""A part that somebody fetches and that has not grown for so long is not waited for."""
LOOK_S = 0.1
SYNC_BYTES = 256 * 2**20
"""So much is written at most before the disk has to have it: the end of a large file does not wait for all of it."""
HASH_PIECE = 4 * 2**20
SAMPLE = 64 * 2**10
"""Bytes that a source is asked for of a file that the store has."""
SMALL = 64 * 2**20
"""Files up to this size are known by git blob id afterwards, whether their source declared one or not."""
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class _Mismatch(Exception):
    """What was fetched is not what was declared."""


@dataclass
class Job:
    """One file to have in the store. ``done`` bytes of it are there, as far as it is known."""

    reading: Reading
    claim: Claim
    weights: bool
    done: int = 0
    sha256: str = ""
    """Of its content, once it is in the store."""
    anew: bool = False
    """Whether it is to be fetched although the store has what the source declares."""

    @property
    def name(self) -> str:
        return key_name(self.reading.pinned, self.reading.listed)

    @property
    def size(self) -> int:
        return self.reading.listed.size

    def use_known(self) -> bool:
        """Whether the store has the file, which then is in use."""
        if self.anew:
            return False
        store = self.claim.store
        sha256 = store.known(self.reading.pinned, self.reading.listed)
        if sha256 is None or not self.claim.use(store.blob(sha256), self.size):
            return False
        self.done, self.sha256 = self.size, sha256
        return True

    def is_served(self) -> bool:
        """Whether the source gives, at a random place, what it declares: a digest alone, of a file that another source
        brought here, may be named by who has not got the file. Asked once for each place. Raises as
        :meth:`Reading.pour`."""
        store, listed = self.claim.store, self.reading.listed
        place = place_name(self.reading.pinned, listed)
        if listed.sha256 is None or not self.weights or store.content_of(place) == self.sha256:
            return True
        start = secrets.randbelow(max(1, self.size - SAMPLE))
        end, found = min(self.size, start + SAMPLE), bytearray()
        self.reading.pour(start, end, found.extend)
        with store.blob(self.sha256).open("rb") as blob:
            blob.seek(start)
            self.anew = blob.read(end - start) != found
        if not self.anew:
            store.learn(place, self.sha256, self.size)
        return not self.anew

    def obtain(self) -> None:
        """Have the file in the store and in use: fetched by this process, or by another one that was before it.

        Raises the file's error where what came is not what was declared, StorageUnavailable, and as
        :meth:`Reading.pour`.
        """
        store, halt = self.claim.store, self.reading.halt
        waited = _Watched(store.part(self.name))
        while not self.use_known():
            descriptor = try_lock(store.fetch_lock(self.name))
            if descriptor is not None:
                try:
                    # Whoever had the lock before may have put the file in place since.
                    if not self.use_known():
                        self._fetch(store.part(self.name))
                finally:
                    os.close(descriptor)
                return
            if waited.stands_still():
                self._fetch_apart()
                return
            self.done = min(waited.size, self.size)
            halt.wait(LOOK_S)

    def _fetch_apart(self) -> None:
        """Fetch what a process that does not go on holds the lock of."""
        name = f"{self.name}.{uuid.uuid4().hex}"
        self.claim.reserve({name: self.size}, self.size, self.reading.pinned.name)
        part = self.claim.store.part(name)
        try:
            self._fetch(part)
        finally:
            # Nobody else would find it.
            part.unlink(missing_ok=True)

    def _fetch(self, part: Path) -> None:
        for _ in range(TRIES):
            try:
                self.sha256 = self._fetch_once(part)
                return
            except _Mismatch:
                part.unlink(missing_ok=True)
        raise self._not_declared()

    def _fetch_once(self, part: Path) -> str:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with ExitStack() as held:
            held.callback(os.close, descriptor)
            filled = _Filled(descriptor, self.size, self._make_room)
            filled.resume(self._is_at)

            def take(piece: bytes) -> None:
                filled.write(piece)
                self._is_at(filled.at)

            if not self.reading.pour(filled.at, self.size, take, rest=True):
                raise _Mismatch
            sha256 = self._verified(filled)
            os.fsync(descriptor)
        self._learn(sha256, filled)
        self.claim.place(part, self.claim.store.blob(sha256), self.size)
        return sha256

    def _is_at(self, done: int) -> None:
        self.done = done
        self.reading.halt.check()

    def _make_room(self, size: int) -> bool:
        return self.claim.free(size)

    def _verified(self, filled: "_Filled") -> str:
        listed = self.reading.listed
        sha256 = filled.sha256.hexdigest()
        if listed.sha256 not in (None, sha256) or listed.git_sha1 not in (None, filled.git_sha1.hexdigest()):
            raise _Mismatch
        return sha256

    def _learn(self, sha256: str, filled: "_Filled") -> None:
        # Before the file is in place: a name without its file does no harm, a file without its name is fetched again.
        store, listed = self.claim.store, self.reading.listed
        if listed.content is None or listed.sha256 is not None:
            store.learn(place_name(self.reading.pinned, listed), sha256, self.size)
        if listed.git_sha1 is not None or self.size <= SMALL:
            store.learn(f"git-{filled.git_sha1.hexdigest()}", sha256, self.size)

    def _not_declared(self) -> SpinalError:
        make: Callable[[str], SpinalError] = WeightsCorrupt if self.weights else file_error(self.reading.listed.name)
        found = make(f"{self.reading.called} is not what the source declares")
        found.hint = f"it was fetched {TRIES} times; upload the file again, or try later"
        return found


class _Filled:
    """A part while it is filled, with the digests of all that is in it."""

    def __init__(self, descriptor: int, size: int, make_room: Callable[[int], bool]) -> None:
        self._descriptor, self._size, self._make_room = descriptor, size, make_room
        self.at = 0
        self.sha256 = hashlib.sha256()
        # git names blobs by it: no matter of trust where a sha256 is declared, and what is declared where none is.
        self.git_sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        self._synced = 0
        self._freed = False

    def resume(self, look: Callable[[int], None]) -> None:
        """Hash what is there of an earlier try, up to the size that the file is to have. ``look`` is told how far it is
        and may raise."""
        while self.at < self._size:
            look(self.at)
            try:
                piece = os.pread(self._descriptor, min(HASH_PIECE, self._size - self.at), self.at)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                # A part on a bad sector would end every later try as well.
                raise _Mismatch from error
            if not piece:
                break
            self._hash(piece)
            # Whoever waits sees that somebody is at it.
            os.utime(self._descriptor)
        os.ftruncate(self._descriptor, self.at)
        self._synced = self.at

    def write(self, piece: bytes) -> None:
        """Add bytes. Raises StorageUnavailable where the disk is full, once nothing more can go."""
        written = 0
        while written < len(piece):
            try:
                written += os.pwrite(self._descriptor, piece[written:], self.at + written)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                if self._freed or not self._make_room(self._size - self.at):
                    # Others need the disk, too.
                    os.ftruncate(self._descriptor, 0)
                    raise StorageUnavailable(
                        "the disk of the model store is full", hint="free space on it, or give the store a budget"
                    ) from error
                self._freed = True
        self._hash(piece)
        if self.at - self._synced >= SYNC_BYTES:
            os.fdatasync(self._descriptor)
            self._synced = self.at

    def _hash(self, piece: bytes) -> None:
        self.sha256.update(piece)
        self.git_sha1.update(piece)
        self.at += len(piece)


class _Watched:
    """The part of another process, whose growth tells that it lives."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self.size = 0
        self._seen: tuple[int, int] | None = None
        self._since = time.monotonic()

    def stands_still(self) -> bool:
        """Whether nothing has happened to it for too long; looks at it."""
        try:
            status = self._part.stat()
            now = (status.st_size, status.st_mtime_ns)
        except FileNotFoundError:
            now = (0, 0)
        if now != self._seen:
            self._seen, self._since = now, time.monotonic()
        self.size = now[0]
        return time.monotonic() - self._since >= FROZEN_S
