"""A checkpoint held while it is read: every listed file opened once, hashed and loaded from the same descriptors.

No torch. Whoever loads it is pointed at a private folder of links to the open files: a file that takes the place of a
listed one meanwhile is never read, and neither is one that is not listed.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.configuration import as_meant
from spinal.checkpoints.files import CONFIG, file_error, most_bytes
from spinal.checkpoints.opening import link_to, open_regular, read_most
from spinal.checkpoints.reading import parse_json
from spinal.checkpoints.unchanged import SETTLED_NS
from spinal.documents.files import FileDigests
from spinal.errors import Cancelled, ConfigInvalid, ModelChanged, SpinalError, WeightsMissing
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled

HASH_PIECE = 16 * 1024 * 1024
HELD = "spinal-held-"
"""Prefix of private folders; the numbers of a name space of processes and of a process in it follow."""
PROCESSES = Path("/proc/self/ns/pid")
Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, time of change of the content and of anything."""


@dataclass(eq=False)
class _File:
    """One listed file, open."""

    name: str
    path: Path
    descriptor: int
    stamp: Stamp
    settled: bool
    """Whether it had been as it is for long enough that another change has another time."""
    beside: bool
    """Whether it is no part of what the checkpoint is."""
    sha256: str | None = None


class Held:
    """One checkpoint folder, that of an adapter's base and a lent tokenizer, with all their files open; made by
    :func:`hold`."""

    def __init__(
        self, original: Checkpoint, folder: Path, files: list[_File], base: "Held | None", lender: "Held | None"
    ) -> None:
        self._all = files
        self._files = {file.name: file for file in files if not file.beside}
        self._base, self._lender = base, lender
        self.open = True
        """Whether its descriptors are; their numbers may belong to other files afterwards."""
        inner, lent = (None if part is None else part.checkpoint for part in (base, lender))
        self.checkpoint: Checkpoint = replace(original, path=folder, base=inner, lender=lent, roots=None, held=self)
        """The same checkpoint, with paths that lead to the open files and to nothing else."""

    def digest(self, *, progress: ProgressSink = ignore_progress, cancelled: CancelCheck = never_cancelled) -> str:
        """sha256 over name and content of all listed files, base included; independent of place. Read once, however
        often it is asked for. Raises Cancelled."""
        hashing = _Hashing(self._unread(), progress, cancelled)
        return self._digest(hashing)

    def file_digests(self) -> tuple[FileDigests, ...]:
        """What :meth:`digest` is made of, of this checkpoint and behind it of an adapter's base; empty where not all
        of their files have been hashed."""
        behind = () if self._base is None else self._base.file_digests()
        known = {file.name: file.sha256 for file in self._files.values() if file.sha256 is not None}
        if len(known) != len(self._files) or (self._base is not None and not behind):
            return ()
        return (FileDigests(files=known, base=behind[0].weights_digest if behind else None), *behind)

    def beside_digests(self) -> dict[str, str]:
        """sha256 of the small files that are no part of what the checkpoint is, by name."""
        for file in self._all:
            if file.beside and file.sha256 is None:
                file.sha256 = _Hashing().sha256(file.descriptor)
        return {file.name: file.sha256 for file in self._all if file.beside and file.sha256 is not None}

    @property
    def settled(self) -> bool:
        """Whether no file, base included, could have changed since it was opened and still have the times it has."""
        return all(file.settled for file in self._files.values()) and (self._base is None or self._base.settled)

    def hash_unsettled(self, *, cancelled: CancelCheck = never_cancelled) -> None:
        """Hash whatever changed a moment ago, as a checkpoint that was just saved: its times would not tell another
        change. Raises Cancelled."""
        hashing = _Hashing(cancelled=cancelled)
        for file in self._all:
            if not file.settled and file.sha256 is None:
                file.sha256 = hashing.sha256(file.descriptor)
        for part in self._parts():
            part.hash_unsettled(cancelled=cancelled)

    def stamps(self) -> tuple[tuple[str, Stamp], ...]:
        """What this host says of every file, base included, as it was opened."""
        parts = [self] if self._base is None else [self, self._base]
        return tuple(
            (f"{depth}/{file.name}", file.stamp) for depth, part in enumerate(parts) for file in part._files.values()
        )

    def require_unchanged(self) -> None:
        """Raise ModelChanged unless every file is still what it was when it was opened, and where it was.

        To be called after the last read. Where only the time of change of anything moved - somebody linked the file -
        or a file was so new that it may have changed without a new time, it is hashed again, and equal content is no
        change. Of a new file that nobody has hashed its times decide: no content was said to be its.
        """
        for file in self._all:
            self._require_same(file)
        for part in self._parts():
            part.require_unchanged()

    def _parts(self) -> list["Held"]:
        return [part for part in (self._base, self._lender) if part is not None]

    def _require_same(self, file: _File) -> None:
        now = stamp_of(os.fstat(file.descriptor))
        try:
            there = os.stat(file.path)
            moved = (there.st_dev, there.st_ino) != now[:2]
        except OSError:
            moved = True
        if moved or now[:-1] != file.stamp[:-1]:
            raise self._changed(file)
        if now == file.stamp and (file.settled or file.sha256 is None):
            return
        if file.sha256 is None or _Hashing().sha256(file.descriptor) != file.sha256:
            raise self._changed(file)
        file.stamp = now

    def _changed(self, file: _File) -> ModelChanged:
        return ModelChanged(
            f"{file.name} of {self.checkpoint.source} changed while it was being read",
            hint="submit again when its files are final",
        )

    def _unread(self) -> int:
        own = sum(file.stamp[2] for file in self._files.values() if file.sha256 is None)
        return own + (self._base._unread() if self._base else 0)

    def _digest(self, hashing: "_Hashing") -> str:
        for file in self._files.values():
            if file.sha256 is None:
                file.sha256 = hashing.sha256(file.descriptor)
        base = self._base._digest(hashing) if self._base else None
        known = {file.name: file.sha256 for file in self._files.values() if file.sha256 is not None}
        return FileDigests(files=known, base=base).weights_digest


@contextmanager
def hold(checkpoint: Checkpoint) -> Iterator[Held]:
    """Open every listed file of ``checkpoint`` and keep it open inside the context; one that is held already is held
    on by whoever opened it.

    Raises ModelChanged where a listed file is not there any more, ModelPathRefused where one leads out of the roots,
    and the file's error where it is no regular file.

    Examples
    --------
    >>> from spinal.checkpoints.resolve import resolve_reference
    >>> with hold(resolve_reference("examples/checkpoints/sft", roots=None)) as held:
    ...     digest = held.digest()
    ...     held.require_unchanged()
    >>> len(digest)
    64
    """
    if isinstance(checkpoint.held, Held):
        if not checkpoint.held.open:
            raise ValueError(f"{checkpoint.source} is not held any more")
        yield checkpoint.held
        return
    if any(part.copy is not None and not part.copy.whole for part in checkpoint.parts):
        raise ValueError(f"of the weights of {checkpoint.source} only the headers are here")
    with ExitStack() as stack:
        held = _opened(checkpoint, stack)
        try:
            yield held
        except Cancelled:
            raise
        except SpinalError:
            # Whatever was found wrong with a file that changed meanwhile, the change is what was wrong.
            held.require_unchanged()
            raise


_own: set[Path] = set()
"""Private folders of this process."""


@contextmanager
def private_folder() -> Iterator[Path]:
    """A temporary folder that libraries are pointed at, so that they find nothing else. :func:`sweep_held` removes what
    a killed process left."""
    folder = Path(tempfile.mkdtemp(prefix=f"{HELD}{_name_space()}-{os.getpid()}-"))
    _own.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _own.discard(folder)


def remove_private_folders() -> None:
    """Remove all of this process, which is about to end without unwinding."""
    for folder in tuple(_own):
        shutil.rmtree(folder, ignore_errors=True)


def _opened(checkpoint: Checkpoint, stack: ExitStack) -> Held:
    base, lender = (None if part is None else _opened(part, stack) for part in (checkpoint.base, checkpoint.lender))
    if lender is not None:
        lender.digest()
    folder = stack.enter_context(private_folder())
    files = []
    for name in (*checkpoint.files.names, *checkpoint.files.beside):
        path = checkpoint.path / name
        descriptor = _open(checkpoint, path)
        stack.callback(os.close, descriptor)
        stamp = stamp_of(os.fstat(descriptor))
        settled = max(stamp[3:]) <= time.time_ns() - SETTLED_NS
        files.append(_File(name, path, descriptor, stamp, settled, beside=name in checkpoint.files.beside))
        if name == CONFIG:
            (folder / name).write_text(json.dumps(_followed(checkpoint, descriptor)), encoding="utf-8")
        else:
            (folder / name).symlink_to(link_to(descriptor, path))
    held = Held(checkpoint, folder, files, base, lender)
    stack.callback(setattr, held, "open", False)
    return held


def _followed(checkpoint: Checkpoint, descriptor: int) -> dict[str, Any]:
    """The configuration in the open file as it is followed, which is what the engine finds in its place. Raises
    ModelChanged where the file is not the one that was resolved."""
    # A descriptor of its own, so that this one stays at its beginning.
    own = os.open(link_to(descriptor, checkpoint.path / CONFIG), os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = as_meant(
            parse_json(read_most(own, most_bytes(CONFIG)), CONFIG, infinity=True), checkpoint.source
        ).config
    except (ValueError, ConfigInvalid):
        found = {}
    if found != checkpoint.config:
        raise ModelChanged(
            f"{CONFIG} of {checkpoint.source} changed before it was read", hint="submit again when its files are final"
        )
    return found


def _open(checkpoint: Checkpoint, path: Path) -> int:
    try:
        return open_regular(path, checkpoint.source, file_error(path.name), checkpoint.roots)
    except FileNotFoundError as error:
        if os.path.lexists(path):
            raise WeightsMissing(f"{checkpoint.source}: {path.name} is a link that leads nowhere") from error
        raise ModelChanged(
            f"{path.name} of {checkpoint.source} is not there any more", hint="submit again when its files are final"
        ) from error


def sweep_held() -> list[Path]:
    """Remove the private folders of processes that are gone; returns what was removed. Whether a process of another
    container lives, which may share the temporary folder, cannot be seen from here: its folders stay."""
    removed = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{HELD}{_name_space()}-*-*")):
        process = folder.name.removeprefix(HELD).split("-")[1]
        if PROCESSES.exists() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _name_space() -> int:
    return PROCESSES.stat().st_ino if PROCESSES.exists() else 0


class _Hashing:
    """Reads files in pieces, so that it can say how far it is and stop in between."""

    def __init__(
        self, total: int = 0, progress: ProgressSink = ignore_progress, cancelled: CancelCheck = never_cancelled
    ) -> None:
        self._total, self._done = total, 0
        self._progress, self._cancelled = progress, cancelled

    def sha256(self, descriptor: int) -> str:
        hasher = hashlib.sha256()
        for piece in _pieces(descriptor):
            if self._cancelled():
                raise Cancelled("cancelled in phase hash")
            hasher.update(piece)
            self._done += len(piece)
            # Of the whole run this is hardly anything.
            self._progress(Progress("hash", self._done, self._total, 0.0))
        return hasher.hexdigest()


def _pieces(descriptor: int) -> Iterator[bytes]:
    at = 0
    while piece := os.pread(descriptor, HASH_PIECE, at):
        yield piece
        at += len(piece)


def stamp_of(status: os.stat_result) -> Stamp:
    """What a host says of a file."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
