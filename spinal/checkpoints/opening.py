"""The one way in which a checkpoint's files are opened: regular files only, without waiting, below a root. No torch."""

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from spinal.errors import ModelPathRefused, SpinalError
from spinal.errors.faults import is_of_the_system, shown

DELETED = " (deleted)"
"""What Linux adds to the path of an open file that has no name any more."""


class NotRegular(ValueError):
    """Why a file is not read, to be put behind its name."""


def _descriptor_of(path: Path) -> int:
    """A descriptor of the regular file at ``path``, which may be anything: nothing is waited for. Raises
    FileNotFoundError, NotRegular, and OSError where disk or system fail."""
    try:
        # Not blocking: to open a pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        if is_of_the_system(error):
            raise
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not a usable name"
        raise NotRegular(f"cannot be opened ({why})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular("is not a regular file")
    return descriptor


def read_most(descriptor: int, most_bytes: int) -> bytes:
    """All that an open file holds, which is closed; raises NotRegular where that is more than ``most_bytes``."""
    with os.fdopen(descriptor, "rb") as stream:
        # Never more than allowed, whatever size the file claims or grows to, and no more than it needs.
        raw = stream.read(min(os.fstat(descriptor).st_size, most_bytes) + 1)
        raw += stream.read(most_bytes + 1 - len(raw))
    if len(raw) > most_bytes:
        raise NotRegular(f"is larger than the {most_bytes:,} bytes that are read of it")
    return raw


def open_regular(
    path: Path, source: str, make: Callable[[str], SpinalError], roots: Sequence[Path] | None = None
) -> int:
    """A descriptor of the regular file at ``path``, open for reading.

    A FIFO or a device is refused instead of being waited for. With ``roots`` the file that was opened, wherever links
    lead, must lie below one of them. ``source`` names the checkpoint and ``make`` the error of a file that cannot be
    used. Raises FileNotFoundError, ModelPathRefused, and what ``make`` makes.
    """
    try:
        descriptor = _descriptor_of(path)
    except NotRegular as error:
        raise make(f"{source}: {shown(path.name)} {error}") from error
    except FileNotFoundError as error:
        if path.is_symlink():
            raise make(f"{source}: {shown(path.name)} is a link that leads nowhere") from error
        raise
    with ExitStack() as undo:
        undo.callback(os.close, descriptor)
        if roots is not None and not _lies_below(descriptor, path, roots):
            raise ModelPathRefused(
                f"{source}: {shown(path.name)} leads out of the model roots",
                hint="put the file itself into the folder, or its target below a model root",
            )
        undo.pop_all()
    return descriptor


def read_regular(
    path: Path,
    source: str,
    make: Callable[[str], SpinalError],
    *,
    most_bytes: int,
    roots: Sequence[Path] | None = None,
) -> bytes:
    """The content of a regular file of at most ``most_bytes``; raises as :func:`open_regular`."""
    descriptor = open_regular(path, source, make, roots)
    try:
        return read_most(descriptor, most_bytes)
    except NotRegular as error:
        raise make(f"{source}: {shown(path.name)} {error}") from error


def link_to(descriptor: int, path: Path) -> Path:
    """A path that leads to an open file whatever happens to its name; the name itself where the system has none."""
    link = Path("/proc/self/fd") / str(descriptor)
    return link if link.exists() else path


def _lies_below(descriptor: int, path: Path, roots: Sequence[Path]) -> bool:
    try:
        real = Path(os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(DELETED))
    except OSError:
        real = path.resolve()
    return any(real.is_relative_to(root.resolve()) for root in roots)
