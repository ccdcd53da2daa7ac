"""Folders that are whole or absent, verified when they are read, and never taken from whoever uses them."""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

log = logging.getLogger(__name__)

UNSURE_S = 60.0
"""An unfinished folder younger than this may not have its lock yet."""
LOCK, SUMS = "lock", "sums.json"
UNFINISHED, REMOVED = "new-", "gone-"
Conditions = Callable[[], dict[str, str]]
"""What may change the last bits of a measurement although no digest names it, as text by name."""
Found = TypeVar("Found")


class Entries:
    """Entries of one kind in one folder. Use it as a context: what was found or kept inside stays in place until its
    end. ``kind`` is what an entry is called in the log."""

    def __init__(self, folder: Path, kind: str, max_bytes: int) -> None:
        self.folder = folder
        self._kind = kind
        self._max_bytes = max_bytes
        self._held = ExitStack()

    def close(self) -> None:
        """Let go of everything."""
        self._held.close()

    def read(self, name: str, files: Sequence[str], parse: Callable[[Path], Found]) -> Found | None:
        """What ``parse`` makes of the entry's folder, whose ``files`` are verified before, in use from now on; a
        damaged entry is removed."""
        entry = self.folder / name
        held = _locked(entry, fcntl.LOCK_SH)
        if held is None:
            self._remove_remains(entry)
            return None
        try:
            _verify(entry, files)
            found = parse(entry)
        except (OSError, ValueError, TypeError, KeyError) as error:
            held.close()
            log.warning("a kept %s is damaged and is measured again: %s", self._kind, error)
            self._remove(entry)
            return None
        self._held.callback(held.close)
        with suppress(OSError):
            os.utime(entry)
        return found

    def place(self) -> Path:
        """An unfinished entry of this process's own, to be filled with files; it goes with the context if it is not
        kept."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        self._held.callback(shutil.rmtree, made, ignore_errors=True)
        (made / LOCK).touch()
        held = _locked(made, fcntl.LOCK_SH)
        if held is not None:
            self._held.callback(held.close)
        return made

    def keep(
        self, unfinished: Path, name: str, texts: Mapping[str, bytes], written: Sequence[str], conditions: Conditions
    ) -> Path | None:
        """Make an entry of a folder of :meth:`place`: ``texts`` are put beside the files ``written`` there. Returns
        where it lies; None where it could not be kept, which loses nothing that was written."""
        entry = self.folder / name
        try:
            for file, text in texts.items():
                (unfinished / file).write_bytes(text)
            sums = {file: hashlib.sha256(text).hexdigest() for file, text in texts.items()}
            sums |= {file: _sha256(unfinished / file) for file in written}
            (unfinished / SUMS).write_text(json.dumps({"sha256": sums, "conditions": conditions()}))
            unfinished.rename(entry)
        except OSError as error:
            # Another process was faster, or the disk is full: what was measured serves this context all the same.
            if not entry.is_dir():
                log.warning("a %s is not kept: %s", self._kind, error)
            return None
        self._make_room()
        return entry

    def _make_room(self) -> None:
        """Remove what killed processes left, then the entries used longest ago until the rest fits."""
        entries = []
        for folder in self.folder.iterdir():
            with suppress(OSError):
                used = folder.stat().st_mtime
                if not folder.name.startswith((UNFINISHED, REMOVED)):
                    entries.append((used, sum(file.stat().st_size for file in folder.iterdir()), folder))
                elif used < time.time() - UNSURE_S:
                    self._remove(folder)
                    self._remove_remains(folder)
        total = sum(size for _, size, _ in entries)
        for _, size, folder in sorted(entries):
            if total <= self._max_bytes:
                return
            if self._remove(folder):
                total -= size

    def _remove(self, folder: Path) -> bool:
        """Remove a folder that nobody uses; False where somebody does, or it cannot be removed."""
        held = _locked(folder, fcntl.LOCK_EX)
        if held is None:
            return False
        with held, suppress(OSError):
            gone = Path(tempfile.mkdtemp(prefix=REMOVED, dir=self.folder))
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            return True
        return False

    def _remove_remains(self, folder: Path) -> None:
        """Remove a folder without a lock file, which nobody can use: a removal that was cut off, or part of an entry
        deleted by hand."""
        if folder.is_dir() and not (folder / LOCK).exists():
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def usable(where: Callable[[], Path], kind: str) -> Iterator[Path | None]:
    """A folder of this user's own to keep ``kind`` in; None, with a line in the log, where there is no place for it."""
    try:
        folder = where()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError) as error:
        log.warning("%s are not kept: %s", kind, error)
        yield None
        return
    if not writable:
        log.warning("%s are not kept: %s is not writable", kind, folder)
        yield None
        return
    yield folder


def _locked(folder: Path, how: int) -> IO[bytes] | None:
    """The folder's lock file, locked; None where there is none, somebody else's lock excludes this one, or the folder
    was removed or replaced meanwhile."""
    try:
        file = (folder / LOCK).open("rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), (folder / LOCK).stat()):
            return file
    except OSError:
        pass
    file.close()
    return None


def _verify(entry: Path, files: Sequence[str]) -> None:
    """Raises ValueError, TypeError, KeyError or OSError where a file is not what was written."""
    sums = json.loads((entry / SUMS).read_text())["sha256"]
    for name in files:
        if _sha256(entry / name) != sums[name]:
            raise ValueError(f"{name} of {entry.name} is not what was written")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
