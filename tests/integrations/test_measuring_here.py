"""Measuring beside the training, in processes of its own: what becomes of members when such a process ends badly."""

import sys
from pathlib import Path

import pytest

from spinal.integrations.callback import Hooks
from spinal.integrations.local_series import LocalSeries
from spinal.integrations.spool import Queued, Run, Spool
from tests.integrations.test_feeding import warnings_of
from tests.support.trainers import SFT, Trainer
from tests.support.waiting import until


def stand_in(tmp_path: Path, lines: str) -> str:
    """A program in the place of Python's, called with -m, the module, the spool and the steps."""
    made = tmp_path / "measure"
    made.write_text(f"#!/bin/sh\n{lines}\n")
    made.chmod(0o755)
    return str(made)


def test_a_process_that_is_killed_costs_the_member_that_it_was_at_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dies = 'echo out of memory; echo "$@" >> "$3/calls"; kill -9 $$'
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, dies))
    spool = tmp_path / "spool"
    callback = Hooks(SFT, spool=spool, final_wait=30.0)
    trainer = Trainer(tmp_path / "out", callback).begins()
    trainer.saves(2, 4)
    trainer.ends()
    members = Spool(spool).members()
    assert [(member.step, member.state) for member in members] == [(2, "failed"), (4, "failed")]
    assert members[0].reason == "the measuring process ended with -9: out of memory"
    assert len((spool / "calls").read_text().splitlines()) == 2
    assert sum("was not measured (failed)" in said for said in warnings_of(caplog)) == 2


def test_what_is_under_way_when_training_ends_is_given_up_and_stays_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = 'echo $$ > "$3/process"; exec sleep 600'
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, hangs))
    spool = tmp_path / "spool"
    callback = Hooks(SFT, spool=spool, final_wait=0.0)
    trainer = Trainer(tmp_path / "out", callback).begins()
    trainer.saves(2)
    until(lambda: (spool / "process").is_file() and (spool / "process").read_text().strip(), "the process")
    trainer.ends()
    assert not Path("/proc", (spool / "process").read_text().strip()).exists()
    assert [member.stage for member in Spool(spool).members()] == ["sent"]
    assert (spool / "checkpoint-2" / "model.safetensors").is_file()


def test_a_member_whose_process_was_stopped_by_us_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may ask once more how members stand while the process that measures is being ended."""
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, "exec sleep 600"))
    spool = Spool(tmp_path / "spool")
    spool.begin(Run(str(SFT), "local:run"))
    series = LocalSeries(spool)
    series.add([Queued(2, "waiting")])
    series.stop()
    assert series.standing().members[2].state == "waiting"
    assert list(spool.measured.iterdir()) == []


def test_what_was_named_is_looked_for_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder named from where training began; who sends what was left may stand elsewhere."""
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, 'pwd > "$3/place"; exec sleep 600'))
    monkeypatch.chdir(SFT.parent)
    trainer = Trainer(tmp_path / "out", Hooks(SFT.name, spool=tmp_path / "spool", final_wait=0.0)).begins()
    trainer.saves(2)
    trainer.ends()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spool" / "place").unlink(missing_ok=True)
    series = LocalSeries(Spool(Path("spool")))
    series.add([Queued(2, "waiting")])
    try:
        until(lambda: (place := tmp_path / "spool" / "place").is_file() and place.read_text(), "the process")
    finally:
        series.stop()
    assert Path((tmp_path / "spool" / "place").read_text().strip()) == SFT.parent


@pytest.mark.parametrize("by", ["INT", "TERM"])
def test_a_process_that_was_told_to_end_by_others_is_followed_by_another_one(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the terminal or the notebook of the training reaches it, too."""
    once = f'echo "$@" >> "$3/calls"; [ $(wc -l < "$3/calls") -gt 1 ] && exec sleep 600; kill -{by} $$'
    monkeypatch.setattr(sys, "executable", stand_in(tmp_path, once))
    spool = Spool(tmp_path / "spool")
    spool.begin(Run(str(SFT), "local:run"))
    series = LocalSeries(spool)
    series.add([Queued(2, "waiting")])
    calls = spool.folder / "calls"

    def is_followed() -> bool:
        waits = series.standing().members[2].state == "waiting"
        return waits and calls.is_file() and len(calls.read_text().splitlines()) == 2

    try:
        until(is_followed, "the second process")
    finally:
        series.stop()
    assert list(spool.measured.iterdir()) == []


@pytest.mark.model
def test_a_checkpoint_that_cannot_be_measured_is_a_failed_member_with_its_reason(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"Human: how do I plant tree number {n}?" for n in range(12)))

    def save_broken(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((SFT / name).read_bytes())
        (folder / "model.safetensors").write_bytes((SFT / "model.safetensors").read_bytes()[:100_000])

    callback = Hooks(SFT, spool=tmp_path / "spool", prompts=str(prompts), final_wait=120.0)
    trainer = Trainer(tmp_path / "out", callback).begins()
    trainer.saves(2, how=save_broken)
    trainer.ends()
    [member] = Spool(tmp_path / "spool").members()
    assert (member.stage, member.state) == ("settled", "failed")
    assert "model.safetensors" in (member.reason or "")
    assert trainer.scores() == {}
