"""Traces measured on this machine, kept under their digest together with their captures.

One folder for each entry: the trace, its capture, and a file with the sha256 of both. An entry is written under another
name and renamed, so that it is whole or absent; what is read is verified first, and what is damaged is removed and
measured again. Whoever uses an entry holds a shared lock on it, so that no other process removes it meanwhile; a lock
ends with its process.

A trace's digest says what was measured and how, not on which device or with which libraries. Entries are therefore kept
apart by the conditions of the measurement, too (:mod:`spinal.engine.conditions`): a trace from a GPU never stands in
for one from a CPU.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from spinal.audit import Traced
from spinal.documents.canonical import digest_of
from spinal.documents.trace import Trace

log = logging.getLogger(__name__)

MAX_BYTES = 20 * 2**30
"""Beyond this the entries that were used longest ago go first. The captures of a pair of seven billion parameters on
512 prompts take about half of it."""
UNSURE_S = 60.0
"""An unfinished folder younger than this may not have its lock yet."""
LOCK, TRACE, CAPTURE, SUMS = "lock", "trace.json", "capture.safetensors", "sums.json"
UNFINISHED, REMOVED = "new-", "gone-"


def cache_folder() -> Path:
    """Where traces are kept: ``spinal/traces`` below ``$XDG_CACHE_HOME``, or below ``~/.cache``."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "spinal" / "traces"


class Cache:
    """Kept traces (:class:`spinal.audit.Captures`). Use it as a context: what was found or kept inside stays in place
    until its end."""

    def __init__(self, folder: Path, conditions: Callable[[], dict[str, str]], *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._conditions = conditions
        self._max_bytes = max_bytes
        self._held = ExitStack()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def find(self, digest: Callable[[], str]) -> Traced | None:
        """The trace of that digest, measured under the present conditions."""
        suffix = self._suffix()
        wanted = digest()
        found = self._read(self._folder / f"{wanted}-{suffix}")
        return found if found is not None and found.trace.digest == wanted else None

    def find_document(self, document: Trace) -> Traced | None:
        """The capture behind a trace document: that of the same measurement, whatever its conditions."""
        for entry in sorted(self._folder.glob(f"{document.digest}-*")):
            found = self._read(entry)
            if found is not None and _same_measurement(found.trace, document):
                return Traced(document, found.capture)
        return None

    def place(self) -> Path:
        """A path for a capture, in an unfinished entry of this process's own; it goes with the context if it is not
        kept."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._folder))
        self._held.callback(shutil.rmtree, folder, ignore_errors=True)
        (folder / LOCK).touch()
        held = _locked(folder, fcntl.LOCK_SH)
        if held is not None:
            self._held.callback(held.close)
        return folder / CAPTURE

    def keep(self, trace: Trace, written: Path) -> Traced:
        """Make an entry of the trace and the capture that was written to a path of :meth:`place`."""
        unfinished, entry = written.parent, self._folder / f"{trace.digest}-{self._suffix()}"
        try:
            text = trace.model_dump_json(by_alias=True).encode()
            (unfinished / TRACE).write_bytes(text)
            sums = {TRACE: hashlib.sha256(text).hexdigest(), CAPTURE: _sha256(written)}
            (unfinished / SUMS).write_text(json.dumps({"sha256": sums, "conditions": self._conditions()}))
            unfinished.rename(entry)
        except OSError as error:
            # Another process was faster, or the disk is full: what was measured serves this context all the same.
            if not entry.is_dir():
                log.warning("the trace of %s is not kept: %s", trace.model.source, error)
            return Traced(trace, written)
        self._make_room()
        return Traced(trace, entry / CAPTURE)

    def _suffix(self) -> str:
        return digest_of(self._conditions())[:16]

    def _read(self, entry: Path) -> Traced | None:
        """The verified entry, in use from now on; a damaged one is removed."""
        held = _locked(entry, fcntl.LOCK_SH)
        if held is None:
            self._remove_remains(entry)
            return None
        try:
            trace = _verified(entry)
        except (OSError, ValueError, TypeError, KeyError) as error:
            held.close()
            log.warning("a kept trace is damaged and is measured again: %s", error)
            self._remove(entry)
            return None
        self._held.callback(held.close)
        with suppress(OSError):
            os.utime(entry)
        return Traced(trace, entry / CAPTURE)

    def _make_room(self) -> None:
        """Remove what killed processes left, then the entries used longest ago until the rest fits."""
        entries = []
        for folder in self._folder.iterdir():
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
            gone = Path(tempfile.mkdtemp(prefix=REMOVED, dir=self._folder))
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
def open_cache(conditions: Callable[[], dict[str, str]], folder: Path | None = None) -> Iterator[Cache | None]:
    """The cache of this user; None, with a line in the log, where there is no place for one."""
    try:
        where = cache_folder() if folder is None else folder
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        writable = os.access(where, os.W_OK | os.X_OK)
    except (OSError, RuntimeError) as error:
        log.warning("traces are not kept: %s", error)
        yield None
        return
    if not writable:
        log.warning("traces are not kept: %s is not writable", where)
        yield None
        return
    with Cache(where, conditions) as cache:
        yield cache


def _same_measurement(kept: Trace, document: Trace) -> bool:
    """Whether two traces are equal in everything but names, provenance and knobs of comparisons."""
    names = {"source": document.model.source, "revision": document.model.revision}
    other = {
        "model": kept.model.model_copy(update=names),
        "prompt_set": kept.prompt_set.model_copy(update={"name": document.prompt_set.name}),
        "profile": document.profile,
        "provenance": document.provenance,
    }
    return kept.model_copy(update=other) == document


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


def _verified(entry: Path) -> Trace:
    """The entry's trace; raises ValueError, TypeError, KeyError or OSError where a file is not what was written."""
    sums = json.loads((entry / SUMS).read_text())["sha256"]
    for name in (TRACE, CAPTURE):
        if _sha256(entry / name) != sums[name]:
            raise ValueError(f"{name} of {entry.name} is not what was written")
    return Trace.model_validate_json((entry / TRACE).read_bytes())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
