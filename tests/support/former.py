"""Code of a former release, taken from the history of the repository, whose processes run beside today's."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from tests.support.places import ROOT

FORMER = "e56491c"
"""The last release before verdicts belonged to audits."""
APP = "service.api.app:create_app"
"""Where its API lies."""
ENGINE = "tests.engine_double"
"""Its own engine double."""
HEAD = "0004"
"""Its newest migration."""
PARTS = ("spinal", "service", "worker", "migrations", "tests")


class NoHistory(Exception):
    """The checkout lacks the former release: it was cloned without its history, or is no clone."""


def unpack(folder: Path, commit: str = FORMER) -> Path:
    """Put the code of ``commit`` into ``folder``; returns it. Raises NoHistory."""
    archive = subprocess.run(["git", "archive", "--format=tar", commit, *PARTS], cwd=ROOT, capture_output=True)
    if archive.returncode != 0:
        said = archive.stderr.decode(errors="replace").strip()
        raise NoHistory(f"clone it with its history, commit {commit} is not there ({said})")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder


def environment_of(code: Path, environment: dict[str, str]) -> dict[str, str]:
    """``environment`` for a process that is to import the code in the folder ``code`` and no other."""
    rest = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part and Path(part) != ROOT]
    return environment | {"PYTHONPATH": os.pathsep.join([str(code), *rest]), "PYTHONSAFEPATH": "1"}
