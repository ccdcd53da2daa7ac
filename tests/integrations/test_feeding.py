"""The callback and a service that is away, slow, or refuses: no member is lost, and training never waits."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spinal.errors import UsageError
from spinal.integrations import send_spooled
from spinal.integrations.callback import Hooks
from spinal.integrations.service_series import ServiceSeries
from spinal.integrations.spool import Run, Spool
from tests.integrations.conftest import SECRET
from tests.support.scripted_series import NLL, Stage
from tests.support.trainers import Tracker, Trainer, save_whole
from tests.support.waiting import until

Make = Callable[..., Hooks]
FIVE = [2, 4, 6, 8, 10]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_every_checkpoint_is_a_member_of_one_series_and_the_series_is_closed(
    stage: Stage, callback: Make, tmp_path: Path
) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(policy="strict/1", labels={"run": "a"})).begins()
    trainer.saves(*FIVE)
    trainer.ends()
    [made] = stage.series().values()
    assert made.pop("key")
    assert made == {
        "reference": "local:sft", "policy": "strict/1", "labels": {"run": "a"}, "closed": True,
        "members": {str(step): f"local:spool/run-1/checkpoint-{step}" for step in FIVE},
    }  # fmt: skip


def test_scores_are_logged_at_the_step_of_their_member_while_trackers_are_open(
    stage: Stage, callback: Make, tmp_path: Path
) -> None:
    stage.starts()
    tracker = Tracker()
    trainer = Trainer(tmp_path / "out", tracker, callback()).begins()
    trainer.saves(*FIVE)
    trainer.ends()
    wanted = {step: {"spinal/nll_change": NLL * step, "spinal/damage": 0.0} for step in FIVE}
    assert trainer.scores() == wanted
    assert dict(tracker.logged) == wanted
    assert trainer.state.global_step == 10


def test_a_service_killed_in_the_middle_loses_no_member_and_is_named_once(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2)
    until(lambda: stage.steps() == [2], "the first member")
    stage.is_killed()
    trainer.saves(4, 6, 8)
    until(lambda: warnings_of(caplog), "the warning")
    stage.starts()
    trainer.saves(10)
    trainer.ends()
    assert len(stage.series()) == 1
    assert stage.steps() == FIVE
    assert sorted(trainer.scores()) == FIVE
    [said] = warnings_of(caplog)
    assert stage.server in said
    assert "Training goes on" in said


def test_an_absent_service_is_named_once_however_often_it_is_asked(
    callback: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked, attempt = [], ServiceSeries.open

    def counted(self: ServiceSeries) -> None:
        asked.append(1)
        attempt(self)

    monkeypatch.setattr(ServiceSeries, "open", counted)
    trainer = Trainer(tmp_path / "out", callback(final_wait=0.0)).begins()
    trainer.saves(2)
    until(lambda: len(asked) >= 4, "the fourth attempt")
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize(("at", "stored"), [("create", []), ("members", [2])])
def test_a_service_that_dies_before_it_answers_makes_one_series_and_gets_each_member_once(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str, stored: list[int]
) -> None:
    stage.starts()
    stage.does("dies", at)
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2)
    until(lambda: warnings_of(caplog), "the request to be given up, so that it is another one that comes again")
    assert stage.steps() == stored
    assert len(stage.series()) == 1, "it ended before it had stored anything"
    stage.starts()
    trainer.saves(4)
    trainer.ends()
    assert stage.steps() == [2, 4]
    assert len(stage.series()) == 1
    assert sorted(trainer.scores()) == [2, 4]


def test_saving_never_waits_for_a_service_that_does_not_answer(stage: Stage, callback: Make, tmp_path: Path) -> None:
    stage.does("hangs")
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(final_wait=0.0)).begins()
    trainer.saves(2)
    until(stage.seen, "a request that hangs")
    began = time.monotonic()
    trainer.saves(4)
    # Copying four megabytes takes none of it; a request is given 30 s.
    assert time.monotonic() - began < 5.0


def test_the_end_of_training_waits_no_longer_than_it_was_told(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.does("holds")
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(final_wait=1.0)).begins()
    trainer.saves(2)
    began = time.monotonic()
    trainer.ends()
    assert time.monotonic() - began < 1.0 + 15.0
    assert "1 checkpoints are not settled" in warnings_of(caplog)[-1]
    assert (tmp_path / "spool" / "checkpoint-2" / "model.safetensors").is_file()


def test_a_restarted_trainer_sends_what_its_predecessor_could_not(stage: Stage, callback: Make, tmp_path: Path) -> None:
    before = callback()
    trainer = Trainer(tmp_path / "out", before).begins()
    trainer.saves(2, 4)
    before.let_go()
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(), step=4).begins()
    trainer.saves(6)
    trainer.ends()
    assert len(stage.series()) == 1
    assert stage.steps() == [2, 4, 6]
    assert sorted(trainer.scores()) == [2, 4, 6]


@pytest.mark.parametrize("linked", [False, True])
def test_a_trainer_that_ended_before_it_had_queued_a_checkpoint_queues_it_when_it_resumes(
    stage: Stage, callback: Make, tmp_path: Path, linked: bool
) -> None:
    """It ended after it had saved, or after it had taken hold of the files, too."""
    stage.starts()
    before = callback()
    Trainer(tmp_path / "out", before).begins()
    before.let_go()
    save_whole(tmp_path / "out" / "checkpoint-2")
    save_whole(tmp_path / "spool" / ("checkpoint-2" if linked else "checkpoint-2.new"))
    Trainer(tmp_path / "out", callback(), step=2).begins()
    until(lambda: stage.steps() == [2], "the member")
    assert not list((tmp_path / "spool").glob("*.new"))


def test_a_resumed_trainer_logs_again_what_its_history_lacks(stage: Stage, callback: Make, tmp_path: Path) -> None:
    stage.starts()
    before = callback()
    trainer = Trainer(tmp_path / "out", before).begins()
    trainer.saves(2, 4)
    until(lambda: len(trainer.hears()) == 2, "both scores")
    before.let_go()
    resumed = Trainer(tmp_path / "out", callback(), step=4)
    resumed.state.log_history = [entry for entry in trainer.state.log_history if entry["step"] == 2]
    resumed.begins()
    assert sorted(entry["step"] for entry in resumed.state.log_history) == [2, 4]


def test_a_run_from_the_beginning_in_the_same_spool_is_another_series(
    stage: Stage, callback: Make, tmp_path: Path
) -> None:
    stage.starts()
    first = callback()
    Trainer(tmp_path / "out", first).begins().saves(2, 4)
    until(lambda: stage.steps() == [2, 4], "both members")
    first.let_go()
    trainer = Trainer(tmp_path / "again", callback()).begins()
    trainer.saves(2)
    trainer.ends()
    assert stage.steps("series-1") == [2, 4]
    assert stage.series()["series-2"]["members"] == {"2": "local:spool/run-1/restart-2/checkpoint-2"}
    assert all(each["closed"] for each in stage.series().values())


def test_what_is_left_is_sent_later(stage: Stage, callback: Make, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path / "out", callback(final_wait=0.0)).begins()
    trainer.saves(2, 4)
    trainer.ends()
    stage.starts()
    found = send_spooled(tmp_path / "spool", api_key=SECRET, wait=30.0)
    assert found["settled"] == 2
    assert stage.steps() == [2, 4]
    assert stage.series()["series-1"]["closed"]


def test_nobody_sends_from_a_spool_that_a_trainer_looks_after(stage: Stage, callback: Make, tmp_path: Path) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2)
    until(lambda: stage.steps() == [2], "the member")
    with pytest.raises(UsageError, match="another process looks after"):
        send_spooled(tmp_path / "spool")


def test_a_refused_member_keeps_no_other_from_being_measured(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.does("refuses", "checkpoint-4")
    first = callback()
    trainer = Trainer(tmp_path / "out", first).begins()
    trainer.saves(2, 4, 6)
    stage.starts()
    until(lambda: stage.steps() == [2, 6], "the others")
    until(lambda: any("checkpoint-4 was refused" in said for said in warnings_of(caplog)), "the warning")
    first.let_go()
    stage.no_longer("refuses")
    Trainer(tmp_path / "out", callback(), step=6).begins()
    until(lambda: stage.steps() == [2, 4, 6], "the refused one, once its cause is gone")


def test_a_series_stays_open_for_a_refused_member_until_it_is_taken(
    stage: Stage, callback: Make, tmp_path: Path
) -> None:
    """A closed one would refuse it for good."""
    stage.does("refuses", "checkpoint-4")
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2, 4, 6)
    began = time.monotonic()
    trainer.ends()
    assert time.monotonic() - began < 20.0, "the end waits for what will not come"
    assert not stage.series()["series-1"]["closed"]
    stage.no_longer("refuses")
    assert send_spooled(tmp_path / "spool", wait=30.0) == {
        "copying": 0, "waiting": 0, "sent": 0, "settled": 3, "refused": 0,
    }  # fmt: skip
    assert stage.steps() == [2, 4, 6]
    assert stage.series()["series-1"]["closed"]


def test_checkpoints_leave_the_spool_once_they_are_settled(stage: Stage, callback: Make, tmp_path: Path) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(keep=1)).begins()
    trainer.saves(*FIVE)
    trainer.ends()
    assert [path.name for path in (tmp_path / "spool").glob("checkpoint-*")] == ["checkpoint-10"]


def test_no_more_than_at_most_wait(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(tmp_path / "out", callback(at_most=2, final_wait=0.0)).begins()
    trainer.saves(2, 4, 6, 8)
    assert [member.step for member in Spool(tmp_path / "spool").members()] == [2, 4]
    assert sum("no more are taken" in said for said in warnings_of(caplog)) == 1


def test_training_stops_on_an_alarm_when_asked(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback(stop_on="destabilised")).begins()
    trainer.saves(2)
    until(trainer.hears, "scores")
    assert not trainer.control.should_training_stop
    stage.does("status", "destabilised")
    trainer.saves(4)
    until(trainer.is_stopped, "the end of training")
    assert any("the series is destabilised: nll_change fell" in said for said in warnings_of(caplog))


def test_an_alarm_stops_nothing_unasked(
    stage: Stage, callback: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.does("status", "destabilised")
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2, 4)
    trainer.ends()
    assert sorted(trainer.scores()) == [2, 4]
    assert not trainer.control.should_training_stop
    assert warnings_of(caplog) == []


def test_the_key_is_sent_and_written_nowhere(stage: Stage, callback: Make, tmp_path: Path) -> None:
    stage.starts()
    trainer = Trainer(tmp_path / "out", callback()).begins()
    trainer.saves(2)
    trainer.ends()
    assert all(SECRET in line for line in stage.seen())
    files = [path for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert files
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_a_forked_process_does_not_keep_the_lock_of_a_run_that_has_ended(tmp_path: Path) -> None:
    """As those that load data for a trainer: they inherit its open files, and may live on."""
    spool = Spool(tmp_path)
    spool.begin(Run("local:sft", "local:run"))
    read, write = os.pipe()
    with spool.locked() as first:
        forked = os.fork()
        if not forked:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with spool.locked() as second:
            assert (first, second) == (True, True)
    finally:
        os.close(write)
        os.waitpid(forked, 0)
        os.close(read)
