"""Where captures lie: an fsspec folder, content-addressed, written whole or not at all."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import fsspec

from service.settings import Settings
from spinal.errors import CaptureMissing, StorageUnavailable

SCRATCH = "spinal-capture-"
IN_USE = "in-use"
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

    def put(self, local: Path, name: str) -> tuple[str, int]:
        """Store a local file; returns (uri, bytes). The final name appears only when all bytes are there."""
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
        return uri, local.stat().st_size

    def size(self, uri: str) -> int | None:
        """Bytes of a stored file; None when it is not there."""
        try:
            return int(self._fs.size(f"{self._root}/{uri}"))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def local_copy(self, uri: str) -> Iterator[Path]:
        """The stored file as a local path (no copy when it is local already); raises CaptureMissing."""
        source = f"{self._root}/{uri}"
        if not self._fs.exists(source):
            raise CaptureMissing(f"{uri} is not in the artifact store", hint="it is measured again by the next attempt")
        if "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,)):
            yield Path(source)
            return
        with self.scratch() as folder:
            local = folder / Path(source).name
            self._fs.get_file(source, str(local))
            yield local

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


def _modified(about: dict[str, object]) -> float:
    """Seconds since the epoch, by the name that the file system at hand has for it; now when it has none."""
    for name in ("mtime", "LastModified", "updated", "last_modified"):
        found = about.get(name)
        if isinstance(found, int | float):
            return float(found)
        if isinstance(found, datetime):
            return found.timestamp()
    return time.time()
