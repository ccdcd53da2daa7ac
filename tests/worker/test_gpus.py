"""Which GPUs a worker child may take, and that no two processes hold one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import Settings
from tests.support.places import ROOT
from worker import gpus

TWO = "GPU 0: NVIDIA A (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA A (UUID: GPU-bbbb-2)\n"
PARTED = (
    "GPU 0: NVIDIA H100 (UUID: GPU-aaaa-1)\n"
    "  MIG 3g.40gb     Device  0: (UUID: MIG-cccc-3)\n"
    "  MIG 3g.40gb     Device  1: (UUID: MIG-dddd-4)\n"
    "GPU 1: NVIDIA H100 (UUID: GPU-bbbb-2)\n"
)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended ``nvidia-smi`` that prints what stands in the returned file."""
    said = tmp_path / "said"
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && cat "{said}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    return said


@pytest.mark.parametrize(
    ("listed", "named", "visible", "expected"),
    [
        (TWO, (), None, ("GPU-aaaa-1", "GPU-bbbb-2")),
        (PARTED, (), None, ("MIG-cccc-3", "MIG-dddd-4", "GPU-bbbb-2")),
        (TWO, (), "1", ("GPU-bbbb-2",)),
        (TWO, (), "GPU-bbbb-2,GPU-aaaa-1", ("GPU-bbbb-2", "GPU-aaaa-1")),
        (TWO, (), "GPU-bb", ("GPU-bbbb-2",)),
        (PARTED, (), "MIG-dddd-4", ("MIG-dddd-4",)),
        (PARTED, (), "0", ("MIG-cccc-3", "MIG-dddd-4")),
        (TWO, (), "0,-1,1", ("GPU-aaaa-1",)),
        (TWO, (), "", ()),
        (TWO, ("1", " 0"), "0", ("GPU-bbbb-2", "GPU-aaaa-1")),
        (TWO, ("1", "GPU-bbbb-2"), None, ("GPU-bbbb-2",)),
        ("", ("0", "1"), None, ("0", "1")),
        ("", (), None, ()),
    ],
)
def test_a_gpu_has_one_name_whoever_names_it(
    driver: Path, listed: str, named: tuple[str, ...], visible: str | None, expected: tuple[str, ...]
) -> None:
    driver.write_text(listed)
    assert gpus.usable_gpus(named, {} if visible is None else {gpus.VISIBLE: visible}) == expected


def test_without_nvidia_smi_the_drivers_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, uuid in (("0000:81:00.0", "GPU-second"), ("0000:01:00.0", "GPU-first")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text(f"Model: \t\t NVIDIA A\nGPU UUID: \t {uuid}\nVideo BIOS: 1\n")
    monkeypatch.setattr(gpus, "DRIVER_FILES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus.installed_gpus() == [("GPU-first",), ("GPU-second",)]


HOLDER = """
import sys
from pathlib import Path
from worker.gpus import take_free
print(take_free(sys.argv[2:], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_gpu_is_held_by_one_process_until_that_dies(tmp_path: Path) -> None:
    folder = tmp_path / "locks"

    def hold() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(folder), "0", "MIG-GPU-x/1/0"], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, umask=0o077,
        )  # fmt: skip
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    children = [hold() for _ in range(3)]
    try:
        assert [taken for _, taken in children] == ["0", "MIG-GPU-x/1/0", "None"]
        # Whoever runs the next worker must be able to lock there, whatever this one's umask.
        assert folder.stat().st_mode & 0o7777 == 0o1777
        assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o644}
        children[0][0].kill()
        children[0][0].wait()
        children.append(hold())
        assert children[-1][1] == "0"
    finally:
        for process, _ in children:
            process.kill()
            process.communicate()


def test_a_lock_on_a_file_that_was_removed_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = []

    def removed_meanwhile(descriptor: int, operation: int) -> None:
        locked.append(descriptor)
        (tmp_path / "0.lock").unlink()

    monkeypatch.setattr(gpus.fcntl, "flock", removed_meanwhile)
    assert gpus.take_free(["0"], tmp_path) is None
    assert len(locked) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_names_no_choice_takes_no_lock(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    settings = Settings(device=device, gpus=("0", "1"), gpu_lock_dir=tmp_path / "locks")
    assert gpus.own_one(settings) is None
    assert gpus.VISIBLE not in os.environ
    assert not (tmp_path / "locks").exists()


def test_the_gpus_of_a_host_are_printed_one_a_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.gpus"], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "SPINAL_GPUS": "0,7", "PATH": ""},
    )  # fmt: skip
    assert done.stdout.split() == ["0", "7"]
