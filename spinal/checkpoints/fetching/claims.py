"""Who uses what of the store, what is promised to whom, and what goes when room is needed.

A claim is a file that its holder keeps locked, with a line for each thing that it uses or fetches. Whoever makes room
reads all claims whose holders live, under the lock of the store, under which claims grow, too: nothing that was
promised goes. The kernel frees the lock of a holder that dies, and the claim counts no more.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from spinal.checkpoints.fetching.halting import Halt
from spinal.checkpoints.fetching.kept import BLOCK, Kept, files_below, is_older, kept_files
from spinal.checkpoints.fetching.locks import locked, remove_unused, try_lock
from spinal.checkpoints.fetching.store import CLAIMS, LOCKS, NAMES, NEW, PARTS, USES, ModelStore
from spinal.errors.sources import ModelStoreFull

ABANDONED_S = 86400.0
"""A part that nobody fetches goes after so long; until then the next one who wants it goes on from there."""
UNUSED_S = 180 * 86400.0
"""Names that were learned so long ago go."""
SWEEP_S = 3600.0


@dataclass
class _Claimed:
    """What all living holders claim together."""

    uses: set[str] = field(default_factory=set)
    parts: dict[str, int] = field(default_factory=dict)


class Claim:
    """What one gathering uses and fetches; made by :func:`claim`. Safe to share between its threads."""

    def __init__(self, store: ModelStore, path: Path, descriptor: int, halt: Halt) -> None:
        self.store = store
        self._path, self._descriptor, self._halt = path, descriptor, halt
        self._used: set[Path] = set()

    @contextmanager
    def locked(self) -> Iterator[None]:
        with locked(self.store.lock, self._halt):
            yield

    def use(self, path: Path, size: int) -> bool:
        """Have the file at ``path`` stay until the claim ends; False where there is none of that size."""
        with self.locked():
            return self._use(path, size)

    def place(self, made: Path, path: Path, size: int) -> None:
        """Move a finished file to ``path``, in use from now on. One that is there already stays, and so do its
        stamps."""
        with self.locked():
            self._move(made, path, size)

    def place_if_it_fits(self, made: Path, path: Path, size: int, *, anew: bool = False) -> bool:
        """The same for a file that was not reserved; False where there is no room for it, and it stays where it is.
        With ``anew`` it takes the place of one that is there."""
        with self.locked():
            if not self._make_room(made.stat().st_blocks * BLOCK, {}):
                return False
            self._move(made, path, size, anew)
            return True

    def reserve(self, parts: Mapping[str, int], whole: int, source: str) -> None:
        """Promise room for parts, by name, before they are fetched. ``whole`` is what the checkpoint takes in all.

        Raises ModelStoreFull where it does not fit beside what is in use; nothing is removed then.
        """
        most = self.store.most_bytes
        if most is not None and whole > most:
            raise ModelStoreFull(
                f"{source} takes {whole:,} bytes, and the model store of this host holds at most {most:,}",
                hint="give the workers a larger model store",
            )
        with self.locked():
            if most is not None and not self._make_room(0, parts):
                raise ModelStoreFull(
                    f"{source} needs {sum(parts.values()):,} bytes more, and too much of the {most:,} bytes of this "
                    "host's model store is in use",
                    hint="try again when other runs have ended, or give the workers a larger model store",
                )
            for name, size in parts.items():
                self._note({"part": name, "size": str(size)})

    def free(self, size: int) -> bool:
        """Remove what nobody uses until ``size`` bytes are free; whether anything was removed."""
        with self.locked():
            claimed = self._claimed()
            freed = self._remove(self._evictable(claimed), size)
            return freed > 0

    def forget(self, paths: list[Path]) -> None:
        """Remove files of the store although they are in use."""
        # Also where time is up for everything else.
        with locked(self.store.lock, Halt()):
            self._used -= set(paths)
            for path in paths:
                _unlink(path)
                _unlink(self.store.stamp(path))

    def _use(self, path: Path, size: int) -> bool:
        try:
            if path.stat().st_size != size:
                return False
        except FileNotFoundError:
            return False
        self._note({"use": str(path.relative_to(self.store.folder))})
        self.store.stamp(path).touch(mode=0o600)
        self._used.add(path)
        return True

    def let_go(self) -> None:
        """End the claim: what it used was used until now."""
        with suppress(OSError):
            for path in self._used:
                self.store.stamp(path).touch(mode=0o600)
        _unlink(self._path)
        os.close(self._descriptor)

    def _move(self, made: Path, path: Path, size: int, anew: bool = False) -> None:
        if not anew and self._use(path, size):
            _unlink(made)
            return
        path.parent.mkdir(exist_ok=True, mode=0o700)
        os.rename(made, path)
        _sync_folder(path.parent)
        self._use(path, size)

    def _note(self, line: Mapping[str, str]) -> None:
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")

    def _make_room(self, more: int, parts: Mapping[str, int]) -> bool:
        most = self.store.most_bytes
        if most is None:
            return True
        claimed = self._claimed()
        evictable = self._evictable(claimed)
        promised = {name: size for name, size in {**claimed.parts, **parts}.items() if not self._is_in_place(name)}
        excess = self._total(promised) + more - most
        if excess > sum(each.size for each in evictable if each.path.name not in promised):
            return False
        self._remove([each for each in evictable if each.path.name not in promised], excess)
        return True

    def _total(self, promised: Mapping[str, int]) -> int:
        kept = sum(each.size for each in kept_files(self.store) if each.path.name not in promised)
        return kept + sum(promised.values())

    def _is_in_place(self, part: str) -> bool:
        sha256 = self.store.content_of(part)
        return sha256 is not None and self.store.blob(sha256).exists()

    def _evictable(self, claimed: _Claimed) -> list[Kept]:
        """What nobody alive uses or fetches, the longest unused first."""
        free = [
            each
            for each in kept_files(self.store)
            if str(each.path.relative_to(self.store.folder)) not in claimed.uses and each.path.name not in claimed.parts
        ]
        return sorted(free, key=lambda each: each.used)

    def _remove(self, evictable: list[Kept], size: int) -> int:
        freed = 0
        for each in evictable:
            if freed >= size:
                break
            _unlink(each.path)
            if each.path.parent.name != PARTS:
                _unlink(self.store.stamp(each.path))
            freed += each.size
        return freed

    def _claimed(self) -> _Claimed:
        found = _Claimed()
        for entry in files_below(self.store.folder / CLAIMS):
            path = Path(entry.path)
            if path != self._path and (descriptor := try_lock(path)) is not None:
                # Its holder is gone.
                _unlink(path)
                os.close(descriptor)
                continue
            for line in _lines(path):
                if "use" in line:
                    found.uses.add(line["use"])
                else:
                    found.parts[line["part"]] = int(line["size"])
        return found

    def sweep(self) -> None:
        """Remove what was left by processes that are gone, and records that nobody has needed for long."""
        swept = self.store.folder / USES / "swept"
        with self.locked():
            claimed = self._claimed()
            with suppress(FileNotFoundError):
                if time.time() - swept.stat().st_mtime < SWEEP_S:
                    return
            swept.touch(mode=0o600)
            now = time.time()
            for entry in files_below(self.store.folder / PARTS):
                if entry.name not in claimed.parts and is_older(entry, now - ABANDONED_S):
                    _unlink(Path(entry.path))
            for area, after_s in ((NEW, ABANDONED_S), (NAMES, UNUSED_S), (USES, UNUSED_S)):
                for entry in files_below(self.store.folder / area):
                    if is_older(entry, now - after_s):
                        _unlink(Path(entry.path))
            for entry in files_below(self.store.folder / LOCKS):
                path = Path(entry.path)
                if path != self.store.lock and is_older(entry, now - ABANDONED_S):
                    remove_unused(path)


@contextmanager
def claim(store: ModelStore, halt: Halt) -> Iterator[Claim]:
    """A claim that ends with the context, or with the process."""
    store.prepare()
    with locked(store.lock, halt):
        descriptor, name = tempfile.mkstemp(dir=store.folder / CLAIMS)
        os.close(descriptor)
        path = Path(name)
        held = try_lock(path)
    if held is None:
        raise AssertionError("a claim nobody else knows of is locked")
    made = Claim(store, path, held, halt)
    try:
        made.sweep()
        yield made
    finally:
        made.let_go()


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with suppress(FileNotFoundError), path.open("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _unlink(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
