"""Where captures lie: an fsspec folder, content-addressed, written whole or not at all."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO
from uuid import uuid4

import fsspec

from service.settings import Settings
from spinal.checkpoints.opening import link_to
from spinal.errors import CaptureMissing, StorageUnavailable


@dataclass(frozen=True)
class StoredFile:
    """A file as it was stored."""

    uri: str
    bytes: int
    sha256: str


SCRATCH = "spinal-capture-"
IN_USE = "in-use"
PIECE = 16 * 2**20
UNSURE_S = 60.0
"""A scratch folder younger than this may not have its lock yet."""
STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ESTALE,
     errno.EFBIG}
)  # fmt: skip


def storage_problem(error: Exception) -> StorageUnavailable | None:
    """The error as full or not writable storage, if that is what it is."""
    if not isinstance(error, OSError) or error.errno not in STORAGE_ERRORS:
        return None
    return StorageUnavailable(
        f"{os.strerror(error.errno)}: {error.filename or 'while writing a capture'}",
        hint="make room on SPINAL_SCRATCH_DIR and the artifact store, and check who may write there",
    )


class ArtifactStore:
    """Files by name below one fsspec URL. A name is written once: it belongs to one attempt of one run."""

    def __init__(self, settings: Settings) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(settings.artifact_url)
        self._scratch = settings.scratch_dir

    def uri(self, name: str) -> str:
        return f"captures/{name[:2]}/{name}.safetensors"

    def put(self, local: Path, name: str) -> StoredFile:
        """Store a local file. The final name appears only when all bytes are there."""
        uri = self.uri(name)
        target = f"{self._root}/{uri}"
        self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        partial = f"{target}.{uuid4().hex}.partial"
        try:
            self._fs.put_file(str(local), partial)
            self._fs.mv(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(partial)
        with local.open("rb") as stream:
            return StoredFile(uri, local.stat().st_size, _sha256(stream))

    def sha256(self, uri: str) -> str | None:
        """Of a stored file's bytes as they are now; None when it is not there."""
        try:
            with self._fs.open(f"{self._root}/{uri}", "rb") as stream:
                return _sha256(stream)
        except FileNotFoundError:
            return None

    def size(self, uri: str) -> int | None:
        """Bytes of a stored file; None when it is not there."""
        try:
            return int(self._fs.size(f"{self._root}/{uri}"))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def local_copy(self, uri: str, size: int, sha256: str | None) -> Iterator[Path]:
        """The stored file as a local path (no copy when it is local already), open until the end of the context. Raises
        CaptureMissing where it is gone, or its bytes are not those that were stored."""
        source = f"{self._root}/{uri}"
        if self.size(uri) != size:
            raise CaptureMissing(
                f"{uri} is not in the artifact store, or cut off", hint="it is measured again by the next attempt"
            )
        with contextlib.ExitStack() as stack:
            local = Path(source)
            if "file" not in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)):
                local = stack.enter_context(self.scratch()) / local.name
                self._fs.get_file(source, str(local))
            stream = stack.enter_context(local.open("rb"))
            if sha256 is not None and _sha256(stream) != sha256:
                raise CaptureMissing(f"{uri} is not what was stored", hint="it is measured again by the next attempt")
            yield link_to(stream.fileno(), local)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A temporary folder on local disk for files being written."""
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=self._scratch))
        try:
            with (folder / IN_USE).open("w") as lock:
                # Held by the process, not by the file: it ends with kill -9, too.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

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
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{uri}")

    def older_than(self, seconds: float) -> list[str]:
        """Uris of the files that were last written so long ago that nobody is writing them any more."""
        found = self._fs.find(f"{self._root}/captures", detail=True) if self._fs.exists(self._root) else {}
        oldest = time.time() - seconds
        return sorted(path.removeprefix(f"{self._root}/") for path, about in found.items() if _modified(about) < oldest)


def _sha256(stream: IO[bytes]) -> str:
    hasher = hashlib.sha256()
    while piece := stream.read(PIECE):
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
