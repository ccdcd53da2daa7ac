"""Which files the callback takes, how, and what it refuses; and that nothing that goes wrong stops training."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.files import list_files
from spinal.errors import ModelNotFound, ProfileInvalid, SpinalError, UsageError
from spinal.integrations import hold
from spinal.integrations.callback import Hooks
from spinal.integrations.hold import HeldFiles
from spinal.integrations.spool import Queued, Spool
from tests.integrations.test_feeding import warnings_of
from tests.support.scripted_series import Stage
from tests.support.trainers import SFT, Trainer, save_whole
from tests.support.waiting import until

Make = Callable[..., Hooks]


@pytest.fixture
def trainer(stage: Stage, callback: Make, tmp_path: Path) -> Trainer:
    """One whose service is away."""
    return Trainer(tmp_path / "out", callback(final_wait=0.0)).begins()


def test_the_listed_files_are_taken_and_nothing_else(trainer: Trainer, tmp_path: Path) -> None:
    trainer.saves(2, 4)
    held = tmp_path / "spool" / "checkpoint-2"
    assert not (tmp_path / "out" / "checkpoint-2").exists(), "the trainer deletes nothing"
    listed = list_files(SFT, "sft", None, adapter=False)
    assert {path.name for path in held.iterdir()} == {*listed.names, *listed.beside}
    assert all((held / name).read_bytes() == (SFT / name).read_bytes() for name in listed.names)


def test_weights_are_links_and_what_trainers_write_in_place_is_not(trainer: Trainer, tmp_path: Path) -> None:
    trainer.saves(2)
    saved, held = tmp_path / "out" / "checkpoint-2", tmp_path / "spool" / "checkpoint-2"
    assert saved.joinpath("model.safetensors").samefile(held / "model.safetensors")
    assert not saved.joinpath("config.json").samefile(held / "config.json")


def test_where_safetensors_writes_in_place_what_waits_is_no_link(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As safetensors 0.5 does: a trainer that begins again in its folder would change what waits here."""

    def in_place(tensors: Mapping[str, Any], path: Path) -> None:
        path.write_bytes(b"".join(tensor.tobytes() for tensor in tensors.values()))

    monkeypatch.setattr(hold, "save_file", in_place)
    hold.weights_are_replaced.cache_clear()
    try:
        trainer.saves(2)
        held = tmp_path / "spool" / "checkpoint-2" / "model.safetensors"
        until(held.is_file, "the copy")
    finally:
        hold.weights_are_replaced.cache_clear()
    (tmp_path / "out" / "checkpoint-2" / "model.safetensors").write_bytes(b"of another run")
    assert held.read_bytes() == (SFT / "model.safetensors").read_bytes()


def test_the_present_safetensors_replaces_files() -> None:
    hold.weights_are_replaced.cache_clear()
    assert hold.weights_are_replaced()


def test_an_adapter_is_taken_as_an_adapter(trainer: Trainer, tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        shutil.copytree(SFT.parents[1] / "history" / "lora-adapter", folder)
        (folder / "tokenizer.json").write_text("{}")

    trainer.saves(2, how=save)
    names = {path.name for path in (tmp_path / "spool" / "checkpoint-2").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


def test_across_file_systems_files_are_copied_though_the_trainer_deletes_them(
    stage: Stage, callback: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: Any, **__: Any) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", no_link)
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(keep=9)).begins()
    trainer.saves(2, 4, 6)
    trainer.ends()
    assert stage.steps() == [2, 4, 6]
    held = tmp_path / "spool" / "checkpoint-2" / "model.safetensors"
    assert held.read_bytes() == (SFT / "model.safetensors").read_bytes()


def test_a_copy_that_was_cut_off_is_made_again_or_named_as_lost(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The process ended while it copied: one checkpoint is still there, the other one is not."""
    first = callback()
    Trainer(tmp_path / "out", first).begins()
    first.let_go()
    save_whole(tmp_path / "out" / "checkpoint-4")
    for step in (2, 4):
        cut_off = Queued(step, "copying", source=str(tmp_path / "out" / f"checkpoint-{step}"))
        Spool(tmp_path / "spool").put(cut_off)
    stage.starts()
    again = Trainer(tmp_path / "out", callback(), step=4).begins()
    again.ends()
    assert stage.steps() == [4]
    assert any("checkpoint-2 could not be copied" in said for said in warnings_of(caplog))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["pytorch_model_fsdp_0/__0_0.distcp", "config.json"], "shards of FSDP (merge them first"),
        (["global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py"], "shards of DeepSpeed"),
        (["pytorch_model.bin", "config.json"], "only as pickle"),
        ([], "holds no model.safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_once_and_training_goes_on(
    trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture, files: list[str], says: str
) -> None:
    def save(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"{}")

    trainer.saves(2, 4, how=save)
    trainer.saves(6)
    refused = [said for said in warnings_of(caplog) if "training goes on" in said]
    assert len(refused) == 1
    assert says in refused[0]
    assert [member.step for member in Spool(tmp_path / "spool").members()] == [6]


def test_processes_beside_the_main_one_touch_nothing(stage: Stage, callback: Make, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "out", callback(), main=False, processes=2).begins()
    trainer.saves(2)
    trainer.ends()
    assert not (tmp_path / "spool").exists()


def test_a_spool_that_cannot_be_made_stops_nothing(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").write_text("a file in the way")
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2, 4)
    trainer.ends()
    assert len(warnings_of(caplog)) == 1


def test_a_full_disk_stops_nothing_and_leaves_no_half_of_a_checkpoint(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        trainer.saves(2)
    trainer.saves(4)
    assert [path.name for path in (tmp_path / "spool").glob("checkpoint-*")] == ["checkpoint-4"]
    assert any("No space left" in said for said in warnings_of(caplog))


def open_files(below: Path) -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return [path for path in found if path.startswith(str(below))]


@pytest.mark.parametrize("at", ["link", "record", "record of a copy"])
def test_a_checkpoint_that_could_not_be_taken_keeps_no_file_open_and_leaves_nothing(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """An open file that was deleted still takes its room on the disk, until training ends or ends by that."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if at == "record of a copy":
        monkeypatch.setattr(HeldFiles, "link_to", lambda *_: False)
    with monkeypatch.context() as patch:
        if at == "link":
            patch.setattr(os, "link", full)
        else:
            patch.setattr(Spool, "put", full)
        trainer.saves(2)
    assert open_files(tmp_path / "out") == []
    assert not (tmp_path / "spool" / "checkpoint-2").exists()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"reference": "nowhere"}, ModelNotFound),
        ({"stop_on": "bad"}, UsageError),
        ({"keep": -1}, UsageError),
        ({"at_most": 0}, UsageError),
        ({"final_wait": -1.0}, UsageError),
        ({"max_tokens": 1}, ProfileInvalid),
        ({"policy": "none-such/9"}, UsageError),
        ({"name": "local:spool"}, UsageError),
        ({"server": "ftp://x"}, UsageError),
        ({"server": "http://x", "device": "cuda"}, UsageError),
        ({"server": "http://x", "max_tokens": 1}, ProfileInvalid),
        ({"server": "http://x", "api_key": "spk a"}, UsageError),
    ],
)
def test_a_wrong_argument_is_refused_before_training(
    tmp_path: Path, options: dict[str, Any], error: type[SpinalError]
) -> None:
    asked: dict[str, Any] = {"reference": SFT, "spool": tmp_path / "spool"} | options
    with pytest.raises(error):
        Hooks(**asked)
    assert not (tmp_path / "spool").exists()


def test_the_package_brings_neither_torch_nor_transformers_until_the_class_is_used() -> None:
    asked = "import sys, spinal.integrations as i; print({'torch', 'transformers'} & set(sys.modules), dir(i))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("set() ")
    assert "SpinalCallback" in done.stdout


def test_a_saved_checkpoint_is_still_whole_for_the_trainer(trainer: Trainer, tmp_path: Path) -> None:
    trainer.saves(2)
    whole = tmp_path / "as saved"
    save_whole(whole)
    assert {p.name for p in whole.iterdir()} == {p.name for p in (tmp_path / "out" / "checkpoint-2").iterdir()}
    until(lambda: (tmp_path / "spool" / ".spinal" / "members" / "2.json").is_file(), "its record")
