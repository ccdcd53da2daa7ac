"""Conditions of a measurement that are known without torch: noted once, by what decides them, and never believed
against what torch says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from spinal import machine
from spinal.cache import conditions
from spinal.cache.environment import cache_folder
from spinal.errors import InternalError
from spinal.machine import KnownConditions, Machine

TOLD = {"device": "cpu", "threads": "2"}


class Torch:
    """What stands in for the engine's modules: it says what it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.says = dict(TOLD)
        self.imported = 0

    def find(self, name: str) -> object:
        self.imported += 1
        return SimpleNamespace(
            conditions=lambda device: dict(self.says), check_device=lambda name: None, set_threads=lambda count: None
        )


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    made = Torch()
    # Whether other tests brought the real one must not matter here.
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(machine, "_import", made.find)
    monkeypatch.setattr(conditions, "_version", lambda package: "1.0")
    return made


def test_a_second_process_in_the_same_surroundings_asks_nobody(torch: Torch) -> None:
    assert KnownConditions(Machine())() == TOLD
    asked = torch.imported
    assert KnownConditions(Machine())() == TOLD
    assert torch.imported == asked


@pytest.mark.parametrize(
    "change",
    ["threads", "variable", "version", "engine", "processor", "cpus"],
)
def test_whatever_decides_the_conditions_has_torch_asked_again(
    torch: Torch, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    KnownConditions(Machine())()
    asked = torch.imported
    given = Machine(threads=3) if change == "threads" else Machine()
    if change == "variable":
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
    elif change == "version":
        monkeypatch.setattr(conditions, "_version", lambda package: "1.1")
    elif change == "engine":
        monkeypatch.setattr(conditions, "engine_files", lambda: "other")
    elif change == "processor":
        monkeypatch.setattr(conditions, "_cpu", lambda: "flags: avx512f")
    elif change == "cpus":
        monkeypatch.setattr(conditions, "_usable_cpus", lambda: 1)
    KnownConditions(given)()
    assert torch.imported > asked


def test_where_the_gpus_cannot_be_known_torch_is_asked_every_time(torch: Torch, tmp_path: Path) -> None:
    for _ in range(2):
        asked = torch.imported
        assert KnownConditions(Machine(device="mps"))() == TOLD
        assert torch.imported > asked
    assert not cache_folder("conditions").exists()


def test_gpus_are_those_that_the_driver_names_and_the_machine_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "NVIDIA", tmp_path)
    monkeypatch.setattr(conditions, "NODES", tmp_path)
    assert conditions._gpus("cuda") is None, "without a driver nothing is known"
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:01:00.0" / "information").write_text("Model: H200")
    assert conditions._gpus("cuda") is None, "nor without its version"
    (tmp_path / "version").write_text("NVRM version: 570")
    assert conditions._gpus("cuda") is None, "nor where no GPU is here"
    (tmp_path / "nvidia1").touch()
    assert conditions._gpus("cuda") == ["NVRM version: 570", "Model: H200", "nvidia1"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"conditions": {"device": "cuda"}, "sha256": "0"}'])
def test_a_damaged_note_is_none(torch: Torch, damage: str) -> None:
    KnownConditions(Machine())()
    (place,) = cache_folder("conditions").iterdir()
    place.write_text(damage)
    asked = torch.imported
    assert KnownConditions(Machine())() == TOLD
    assert torch.imported > asked
    assert KnownConditions(Machine())() == TOLD, "and is made anew"


def test_where_torch_is_in_the_process_it_is_asked_and_nothing_is_noted(
    torch: Torch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever brought it may have set its threads, which no later process would find in its surroundings."""
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert KnownConditions(Machine())() == TOLD
    assert not cache_folder("conditions").exists()
    torch.says["threads"] = "5"
    assert KnownConditions(Machine())()["threads"] == "5"


def test_a_note_that_torch_contradicts_stops_the_work_and_goes(torch: Torch) -> None:
    KnownConditions(Machine())()
    known = KnownConditions(Machine())
    assert known() == TOLD
    torch.says["threads"] = "9"
    with pytest.raises(InternalError, match="other conditions"):
        known.engine()
    assert KnownConditions(Machine())()["threads"] == "9"


def test_notes_hold_no_variable_of_the_environment(torch: Torch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_SECRET", "hunter2")
    KnownConditions(Machine())()
    (place,) = cache_folder("conditions").iterdir()
    assert "hunter2" not in place.read_text() + place.name


@pytest.mark.model
def test_what_is_known_without_torch_is_of_the_same_files_and_versions_as_what_the_engine_says() -> None:
    from spinal.engine.conditions import conditions as told

    assert told("cpu")["source"] == conditions.engine_files()
    assert told("cpu")["numpy"] == conditions._version("numpy")
    assert told("cpu")["transformers"] == conditions._version("transformers")
