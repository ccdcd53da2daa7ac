"""``dev.py``: the environment that it makes for itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dev
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


def test_a_server_that_is_not_to_be_had_leaves_its_tests_out_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(python: Path, *wanted: object) -> None:
        raise subprocess.CalledProcessError(1, ["pip", "install", *map(str, wanted)])

    monkeypatch.setattr(dev, "VENV", tmp_path)
    monkeypatch.setattr(dev, "install_into", away)
    dev.make_servers()
    assert "tests that need it are left out" in capsys.readouterr().err
    assert not list((tmp_path / "servers").iterdir())
    monkeypatch.setattr(dev, "install_into", lambda python, *wanted: None)
    dev.make_servers()
    made = list((tmp_path / "servers").iterdir())
    assert [folder.name for folder in made] == list(dev.SERVERS)
    monkeypatch.setattr(dev, "call", None)
    dev.make_servers()
