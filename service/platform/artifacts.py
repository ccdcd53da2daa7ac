"""Where captures lie: an fsspec folder, content-addressed, written whole or not at all."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID, uuid4

from service.platform.reaching_stores import AWAY, PIECE, ROOM, reach, storage_problem
from service.settings import Settings
from spinal.checkpoints.opening import link_to
from spinal.errors import CaptureMissing, StorageRefused, StorageUnavailable


@dataclass(frozen=True)
class StoredFile:
    """A file as it was stored."""

    uri: str
    bytes: int
    sha256: str


SCRATCH = "spinal-capture-"
IN_USE = "in-use"
UNSURE_S = 60.0
"""A scratch folder younger than this may not have its lock yet."""
CAPTURES = "captures"
MARKER = "spinal-installation"
"""File at the root of a store: the id of the installation that it belongs to."""
PROBE = b"spinal" * 1000
AGAIN = "it is measured again by the next attempt"


class ArtifactStore:
    """Files by name below one fsspec URL. A name is written once: it belongs to one attempt of one run.

    Whatever goes wrong with the store leaves as StorageUnavailable, or StorageRefused where somebody has to set it
    right; CaptureMissing says that a file is really not there.
    """

    def __init__(self, settings: Settings) -> None:
        self._at = reach(settings)
        self._root = self._at.root
        self._scratch = settings.scratch_dir
        self._marked = False

    def uri(self, name: str) -> str:
        return f"{CAPTURES}/{name[:2]}/{name}.safetensors"

    def put(self, local: Path, name: str) -> StoredFile:
        """Store a local file. The final name appears only when all bytes are there."""
        uri = self.uri(name)
        with local.open("rb") as stream:
            stored = StoredFile(uri, local.stat().st_size, _sha256(stream))
        with self._at.errors():
            self._write(uri, lambda place: self._at.send_file(local, place))
        return stored

    def _write(self, uri: str, write: Callable[[str], object]) -> None:
        target = f"{self._root}/{uri}"
        if self._at.whole_writes:
            # One request; and no bucket is made, as making folders would.
            write(target)
            return
        self._at.ask("makedirs", target.rsplit("/", 1)[0], exist_ok=True)
        partial = f"{target}.{uuid4().hex}.partial"
        try:
            write(partial)
            self._at.ask("mv", partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                self._at.ask("rm_file", partial)
            raise

    def sha256(self, uri: str) -> str | None:
        """Of a stored file's bytes as they are now; None when it is not there."""
        try:
            with self._at.errors(absent=True):
                if not self._at.local:
                    return _sha256_of(self._at.pieces(f"{self._root}/{uri}"))
                with Path(f"{self._root}/{uri}").open("rb") as stream:
                    return _sha256(stream)
        except FileNotFoundError:
            self._require_store()
            return None

    def size(self, uri: str) -> int | None:
        """Bytes of a stored file; None when it is not there."""
        try:
            with self._at.errors(absent=True):
                return int(self._at.ask("size", f"{self._root}/{uri}"))
        except FileNotFoundError:
            self._require_store()
            return None

    @contextlib.contextmanager
    def local_copy(self, uri: str, size: int, sha256: str | None) -> Iterator[Path]:
        """The stored file as a local path (no copy when it is local already), open until the end of the context. Raises
        CaptureMissing where it is gone, or its bytes are not those that were stored."""
        source = f"{self._root}/{uri}"
        if self.size(uri) != size:
            raise CaptureMissing(f"{uri} is not in the artifact store, or cut off", hint=AGAIN)
        with contextlib.ExitStack() as stack:
            local = Path(source)
            if not self._at.local:
                local = stack.enter_context(self.scratch()) / local.name
                with self._at.errors(absent=True), of_this_machine(), local.open("wb") as copied:
                    copied.writelines(self._at.pieces(source))
                if local.stat().st_size != size:
                    raise StorageUnavailable(f"{uri} did not arrive whole", hint=AWAY)
            with self._at.errors(absent=True):
                stream = stack.enter_context(local.open("rb"))
                altered = sha256 is not None and _sha256(stream) != sha256
            if altered:
                raise CaptureMissing(f"{uri} is not what was stored", hint=AGAIN)
            yield link_to(stream.fileno(), local)

    # whose it is, and whether it can be used

    def marker(self) -> UUID | None:
        """The installation that the store is marked with; None where it has no marker."""
        try:
            with self._at.errors(absent=True):
                said = bytes(self._at.ask("cat_file", f"{self._root}/{MARKER}")).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        try:
            return UUID(said)
        except ValueError:
            raise StorageRefused(
                f"{MARKER} in the artifact store holds no id of an installation", hint="look at who has written it"
            ) from None

    def mark(self, installation: UUID) -> None:
        """Mark the store, unless it is marked already: of several at once, one does, and each finds that out by
        reading."""
        content = f"{installation}\n".encode()
        with self._at.errors():
            if self._at.local:
                self._mark_folder(content)
            else:
                self._mark_elsewhere(content)

    def _mark_folder(self, content: bytes) -> None:
        marker, mine = Path(self._root) / MARKER, Path(self._root) / f"{MARKER}.{uuid4().hex}"
        marker.parent.mkdir(parents=True, exist_ok=True)
        try:
            mine.write_bytes(content)
            try:
                os.link(mine, marker)
            except FileExistsError:
                return
            except OSError:
                # A file system without links.
                if not marker.exists():
                    mine.rename(marker)
        finally:
            mine.unlink(missing_ok=True)

    def _mark_elsewhere(self, content: bytes) -> None:
        target = f"{self._root}/{MARKER}"
        try:
            self._at.ask("pipe_file", target, content, mode="create")
        except (OSError, TypeError, NotImplementedError):
            # There already, or a store that knows no such condition.
            if self.marker() is None:
                self._at.ask("pipe_file", target, content)

    def is_marked(self) -> None:
        """From now on a store without any marker is one that is not there, such as a folder that is not mounted: what
        it does not show is not missing."""
        self._marked = True

    def _require_store(self) -> None:
        if self._marked and self.marker() is None:
            raise StorageUnavailable(
                f"the artifact store does not show its file {MARKER} any more",
                hint="check that it is mounted; if it was emptied on purpose, start this worker again",
            )

    def probe(self) -> None:
        """Write, read and delete a few bytes, in scratch and in the store. What a killed worker leaves of it goes with
        the files of no trace."""
        with self.scratch() as folder, self._at.errors():
            with of_this_machine():
                (folder / "probe").write_bytes(PROBE)
            uri = f"{CAPTURES}/probe/{uuid4().hex}"
            place = f"{self._root}/{uri}"
            try:
                self._write(uri, lambda there: self._at.ask("pipe_file", there, PROBE))
                if bytes(self._at.ask("cat_file", place)) != PROBE:
                    raise StorageUnavailable("the artifact store does not give back what was written", hint=ROOM)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self._at.ask("rm_file", place)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on local disk for files being written."""
        with of_this_machine():
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self._scratch))
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            with of_this_machine():
                lock = stack.enter_context((folder / IN_USE).open("w"))
                # Held by the process, not by the file: it ends with kill -9, too.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder

    def sweep_scratch(self) -> list[Path]:
        """Remove the scratch folders of processes that died with them; returns what was removed."""
        removed = []
        for folder in sorted(Path(self._scratch or tempfile.gettempdir()).glob(f"{SCRATCH}*")):
            with contextlib.suppress(OSError):
                if time.time() - folder.stat().st_mtime < UNSURE_S:
                    continue
                with (folder / IN_USE).open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                    removed.append(folder)
        return removed

    def remove(self, uri: str) -> None:
        """Delete a stored file; none there is no error."""
        with contextlib.suppress(FileNotFoundError), self._at.errors(absent=True):
            self._at.ask("rm_file", f"{self._root}/{uri}")

    def older_than(self, seconds: float) -> list[str]:
        """Uris of the files that were last written so long ago that nobody is writing them any more."""
        found: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError), self._at.errors(absent=True):
            # Folder by folder: each is a request or a few, and the whole may take as long as it takes.
            for folder in self._at.ask("ls", f"{self._root}/{CAPTURES}", detail=False):
                found |= self._at.ask("find", folder, detail=True)
        oldest = time.time() - seconds
        return sorted(path.removeprefix(f"{self._root}/") for path, about in found.items() if _modified(about) < oldest)


@contextlib.contextmanager
def of_this_machine() -> Iterator[None]:
    """Errors of local disks, where those of a store may be meant."""
    try:
        yield
    except Exception as error:
        problem = storage_problem(error)
        if problem is None:
            raise
        raise problem from error


def _sha256(stream: IO[bytes]) -> str:
    return _sha256_of(iter(lambda: stream.read(PIECE), b""))


def _sha256_of(pieces: Iterable[bytes]) -> str:
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def _modified(about: dict[str, object]) -> float:
    """Seconds since the epoch, by the name that the file system at hand has for it; now when it has none."""
    for name in ("mtime", "LastModified", "updated", "last_modified"):
        found = about.get(name)
        if isinstance(found, int | float):
            return float(found)
        if isinstance(found, datetime):
            return found.timestamp()
    return time.time()
