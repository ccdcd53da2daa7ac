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


def test_called_from_an_environment_without_pip_it_uses_the_python_behind_it(tmp_path: Path) -> None:
    """As uv makes them: activated, they stand in the way of every other checkout."""
    shutil.copy(ROOT / "dev.py", tmp_path)
    other = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(other)], check=True)
    asked = [str(other / "bin" / "python"), "-c", BASE]
    base = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    assert not Path(base).is_relative_to(other)
    assert subprocess.run([base, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def test_another_python_is_the_one_it_is_called_with(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dev.py", tmp_path)
    made = tmp_path / "with pip"
    subprocess.run([sys.executable, "-m", "venv", str(made)], check=True)
    asked = [str(made / "bin" / "python"), "-c", BASE]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == asked[0]
