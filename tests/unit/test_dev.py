"""``dev.py``: the environment that it makes for itself."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

BASE = "import dev; print(dev.base_python())"


def test_called_from_its_own_environment_it_makes_that_anew_with_the_python_behind_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev.py", tmp_path)
    venv = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / ".venv")]
    subprocess.run(venv, check=True)
    asked = [str(tmp_path / ".venv" / "bin" / "python"), "-c", BASE]
    base = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert Path(base).is_file()
    shutil.rmtree(tmp_path / ".venv")
    assert subprocess.run([base, "-c", ""], check=False).returncode == 0


def test_another_python_is_the_one_it_is_called_with(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev.py", tmp_path)
    asked = [sys.executable, "-c", BASE]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sys.executable
