"""Locks between processes and threads that the kernel frees when their holder dies."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spinal.checkpoints.fetching.halting import Halt
from spinal.errors import StorageUnavailable

PATIENCE_S = 60.0
"""So long a lock is waited for that is only ever held for a moment."""
FIRST_LOOK_S, MOST_LOOK_S = 0.002, 0.05


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the exclusive lock at ``path`` until it is closed; None where somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removed the file meanwhile held its lock: another one may hold that of a new file of the name.
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


@contextmanager
def locked(path: Path, halt: Halt) -> Iterator[None]:
    """The lock at ``path``, which nobody holds for long. Raises StorageUnavailable where somebody does, and as
    ``halt``."""
    until, look = time.monotonic() + PATIENCE_S, FIRST_LOOK_S
    while (descriptor := try_lock(path)) is None:
        if time.monotonic() > until:
            raise StorageUnavailable(
                f"the model store has been locked for {PATIENCE_S:.0f} s", hint="look for a process that is stopped"
            )
        halt.wait(look)
        look = min(2 * look, MOST_LOOK_S)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_unused(path: Path) -> None:
    """Remove a lock file unless somebody holds it."""
    with suppress(OSError):
        descriptor = try_lock(path)
        if descriptor is not None:
            try:
                path.unlink()
            finally:
                os.close(descriptor)
