"""What a service stores its captures in, going away and coming back: a folder, a bucket, a disk without room."""

import ctypes
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.object_server import OWNER, ObjectServer

AT_FDCWD, RENAME_EXCHANGE = -100, 2
BUCKET = "captures"


class FolderStore:
    """A folder of captures. Away, a file is in its place, so that whoever looks for anything below it is told that
    there is no such folder; what was in it comes back whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._other = folder.with_name(f"{folder.name}.away")
        folder.mkdir(parents=True)
        self._other.touch()
        self.environment = {"SPINAL_ARTIFACT_URL": f"file://{folder}"}

    def leave(self) -> None:
        _exchange(self._folder, self._other)

    def come_back(self) -> None:
        _exchange(self._folder, self._other)


class BucketStore:
    """A bucket of a real object store, whose server is killed and started again."""

    def __init__(self, server: ObjectServer) -> None:
        self._server = server
        self.endpoint = server.endpoint
        server.make_bucket(BUCKET)
        options = {"endpoint_url": server.endpoint, "key": OWNER.id, "secret": OWNER.secret, "region": "us-east-1"}
        self.environment = {
            "SPINAL_ARTIFACT_URL": f"s3://{BUCKET}/service",
            "SPINAL_ARTIFACT_OPTIONS": json.dumps(options),
        }

    def leave(self) -> None:
        self._server.kill()

    def come_back(self) -> None:
        self._server.start()


def _exchange(one: Path, other: Path) -> None:
    """Two paths change places in one step: at no moment is there nothing, which somebody might fill."""
    done = ctypes.CDLL(None, use_errno=True).renameat2(
        AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE
    )
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


class Disk:
    """A file system of its own, of ``megabytes`` in memory, that can be filled up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Take what room there is; again, what others have made meanwhile."""
        with suppress(FileNotFoundError), self._filler.open("ab", buffering=0) as filler:
            block = bytes(2**20)
            try:
                while True:
                    filler.write(block)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[Disk]:
    """Mounted at ``folder`` for as long as the context lasts. Raises OSError, with a text that says why, where this
    process may not mount anything."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "spinal", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode != 0:
        raise OSError(errno.EPERM, mounted.stderr.strip() or "mount failed", str(folder))
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
