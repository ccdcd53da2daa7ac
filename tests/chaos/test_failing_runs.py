"""Measurements that fail: each kind of failure ends, or is tried again, as it should, and says what it was."""

import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from spinal.profile import MeasurementProfile
from tests.chaos.test_killed_workers import alive
from tests.support.fleet import PATIENT_LEASE_S, Fleet
from tests.support.waiting import until


def codes(fleet: Fleet) -> list[tuple[str, str | None]]:
    """(outcome, code of the error) of every attempt."""
    rows = fleet.rows("SELECT outcome, error->>'code' AS code FROM run_attempts ORDER BY started_at")
    return [(row.outcome, row.code) for row in rows]


def test_a_device_side_assert_ends_the_child_and_the_next_attempt_gets_a_fresh_one(fleet: Fleet) -> None:
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    (fleet.double / "crash").write_text("device-side assert")
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    fleet.wait_for(audit, "SUCCEEDED")
    assert codes(fleet) == [("released", "device_failed"), ("succeeded", None)]
    assert fleet.rows("SELECT charged_attempts FROM runs") == [(1,)]
    first, second = (pid for pid, _, _ in fleet.calls())
    assert first != second
    assert not alive(first)


@pytest.mark.parametrize(
    ("crash", "outcome", "code"),
    [("disk full", "released", "storage_unavailable"), ("bug", "retry", "internal_error")],
    ids=["disk full", "bug"],
)
def test_what_may_pass_is_tried_again(fleet: Fleet, crash: str, outcome: str, code: str) -> None:
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    (fleet.double / "crash").write_text(crash)
    fleet.start_dispatcher()
    fleet.start_worker()
    fleet.wait_for(fleet.submit(reference=None), "SUCCEEDED")
    assert codes(fleet) == [(outcome, code), ("succeeded", None)]


@pytest.mark.parametrize("times", [1, 2], ids=["half the batch fits", "half the batch does not fit"])
def test_out_of_device_memory_is_tried_once_more_with_half_the_batch(fleet: Fleet, times: int) -> None:
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    (fleet.double / "crash").write_text("\n".join(["device out of memory"] * times))
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    if times == 1:
        fleet.wait_for(audit, "SUCCEEDED")
        assert codes(fleet) == [("succeeded", None)]
    else:
        fleet.wait_for(audit, "FAILED")
        assert codes(fleet) == [("failed", "out_of_memory")]
        [(error,)] = fleet.rows("SELECT error FROM audits")
        size = MeasurementProfile().batch_size
        assert error["batch_sizes"] == [size, size // 2]


@pytest.mark.parametrize("code", ["non_finite_activations", "weights_corrupt", "model_not_found"])
def test_what_would_fail_again_is_not_tried_again(fleet: Fleet, code: str) -> None:
    (fleet.double / "fail").write_text(code)
    fleet.start_dispatcher()
    fleet.start_worker()
    fleet.wait_for(fleet.submit(reference=None), "FAILED")
    assert codes(fleet) == [("failed", code)]
    assert fleet.rows("SELECT DISTINCT error->>'code' AS code FROM audits") == [(code,)]
    assert fleet.rows("SELECT count(*) FROM traces") == [(0,)]


def test_out_of_host_memory_is_not_tried_again(fleet: Fleet) -> None:
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    (fleet.double / "crash").write_text("host out of memory")
    fleet.start_dispatcher()
    fleet.start_worker()
    fleet.wait_for(fleet.submit(reference=None), "FAILED")
    assert codes(fleet) == [("failed", "out_of_memory")]


@pytest.mark.parametrize("deaf", [False, True], ids=["stops when told", "has to be ended"])
def test_a_measurement_without_progress_is_ended_and_tried_again(fleet: Fleet, deaf: bool) -> None:
    fleet.hold()
    (fleet.double / "silent").touch()
    if deaf:
        (fleet.double / "deaf").touch()
    fleet.start_dispatcher()
    fleet.start_worker(SPINAL_STALL_S="2")
    audit = fleet.submit(reference=None)
    until(lambda: codes(fleet)[:1] == [("retry", "run_stalled")], "the watchdog", timeout=30.0)
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    first, *_, last = (pid for pid, _, _ in fleet.calls())
    assert (first != last) == deaf


def test_a_hung_kernel_is_ended_at_its_deadline(fleet: Fleet) -> None:
    fleet.hold()
    (fleet.double / "deaf").touch()
    fleet.start_dispatcher()
    fleet.start_worker(SPINAL_RUN_DEADLINE_S="3")
    audit = fleet.submit(reference=None)
    hung, _, _ = fleet.wait_for_call()
    until(lambda: not alive(hung), "the hung process to end")
    until(lambda: codes(fleet)[:1] == [("lost", "deadline_exceeded")], "the deadline to be its cause")
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")


def test_a_result_that_the_database_does_not_take_holds_no_worker_whose_audit_is_cancelled(fleet: Fleet) -> None:
    """Heartbeats go on being taken: a full tablespace, or a statement that always takes too long."""
    refuse = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"""
    with fleet.ledger.begin() as session:
        session.execute(text(refuse))
        session.execute(text("CREATE TRIGGER no_space BEFORE INSERT ON traces EXECUTE FUNCTION full_disk()"))
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    until(lambda: fleet.log("worker").count("waiting for the database") > 2, "the result to be refused")
    fleet.cancel(audit)
    until(lambda: fleet.rows("SELECT state FROM runs") == [("CANCELLED",)], "the run to be cancelled", timeout=15.0)
    with fleet.ledger.begin() as session:
        session.execute(text("DROP TRIGGER no_space ON traces"))
    fleet.wait_for(fleet.submit(reference=None), "SUCCEEDED")


def test_a_kernel_that_does_not_return_is_released_when_its_worker_is_asked_to_leave(fleet: Fleet) -> None:
    """Inside native code the main thread runs no signal handler: who waits for it waits until the worker is killed."""
    (fleet.double / "kernel").touch()
    fleet.start_dispatcher()
    fleet.start_worker("first")
    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    until(lambda: not (fleet.double / "kernel").exists(), "the kernel to run")
    fleet.children["first"].send(signal.SIGTERM)
    until(lambda: codes(fleet) == [("released", None)], "the run to be put back", timeout=15.0)
    until(lambda: not fleet.children["first"].alive(), "the worker to leave", timeout=20.0)
    fleet.start_worker("second")
    fleet.wait_for(audit, "SUCCEEDED")
    assert fleet.rows("SELECT charged_attempts FROM runs") == [(1,)]


def test_native_code_that_never_lets_go_of_the_interpreter_is_ended_from_outside_it(fleet: Fleet) -> None:
    (fleet.double / "stuck").touch()
    fleet.start_dispatcher()
    fleet.start_worker(SPINAL_STUCK_S="5")
    audit = fleet.submit(reference=None)
    stuck, _, _ = fleet.wait_for_call()
    # No thread of that process runs any more, not the one that beats and not the one that watches.
    until(lambda: not alive(stuck), "the stuck process to end", timeout=30.0)
    fleet.wait_for(audit, "SUCCEEDED")
    assert codes(fleet) == [("lost", "lease_lost"), ("succeeded", None)]
    assert "Thread 0x" in fleet.log("worker")


def test_a_worker_leaves_newer_work_to_newer_workers(fleet: Fleet) -> None:
    newer = fleet.submit(reference=None)
    with fleet.ledger.begin() as session:
        session.execute(text("UPDATE runs SET spec_version = 99"))
    fleet.start_dispatcher()
    fleet.start_worker()
    until(lambda: "nothing to claim" in fleet.log("worker"), "the worker to be rung for the newer run")
    # Another prompt set: this audit shares no run with the newer one.
    fleet.wait_for(fleet.submit(prompt_set="hh-harmless-128"), "SUCCEEDED")
    assert fleet.rows("SELECT state, attempt FROM runs WHERE spec_version = 99") == [("QUEUED", 0)]
    with fleet.ledger.begin() as session:
        # As if the worker had been upgraded.
        session.execute(text("UPDATE runs SET spec_version = 1 WHERE spec_version = 99"))
    fleet.wait_for(newer, "SUCCEEDED")


def test_work_accepted_for_a_version_that_no_longer_runs_ends_with_that_as_its_reason(fleet: Fleet) -> None:
    audit = fleet.submit()
    with fleet.ledger.begin() as session:
        session.execute(
            text("""UPDATE runs SET spec = jsonb_set(spec, '{engine_version}', '"0"')
                                WHERE kind = 'trace' AND spec->>'model' LIKE '%dpo-short'""")
        )
    fleet.start_dispatcher()
    fleet.start_worker()
    fleet.wait_for(audit, "FAILED")
    [(error,)] = fleet.rows("SELECT error FROM audits")
    assert error["code"] == "version_retired"
    assert "version 0" in error["detail"]


@pytest.mark.parametrize("stage", ["queued", "tracing", "comparing"])
def test_cancelling_at_every_stage_ends_the_audit_and_frees_the_worker(fleet: Fleet, stage: str) -> None:
    if stage == "queued":
        audit = fleet.submit()
        fleet.cancel(audit)
        fleet.start_dispatcher()
        fleet.start_worker()
    else:
        if stage == "comparing":
            fleet.start_dispatcher()
            fleet.start_worker()
            fleet.wait_for(fleet.submit(), "SUCCEEDED")
        before = len(fleet.calls())
        fleet.hold()
        audit = fleet.submit(seed=1)
        if stage == "tracing":
            fleet.start_dispatcher()
            fleet.start_worker()
        fleet.wait_for_call(before + 1)
        fleet.cancel(audit)
    open_runs = "SELECT 1 FROM runs WHERE state IN ('QUEUED','RUNNING')"
    until(lambda: not fleet.rows(open_runs), "all runs to end", timeout=15.0)
    assert fleet.state(audit) == "CANCELLED"
    fleet.go_on()
    fleet.wait_for(fleet.submit(seed=2), "SUCCEEDED")
    assert fleet.state(audit) == "CANCELLED"


def test_a_deaf_measurement_frees_its_worker_within_15_s_at_the_default_timings(fleet: Fleet) -> None:
    fleet.hold()
    (fleet.double / "deaf").touch()
    fleet.start_dispatcher()
    for name in ("SPINAL_LEASE_S", "SPINAL_HEARTBEAT_S"):
        del fleet.environment[name]
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    deaf, _, _ = fleet.wait_for_call()
    cancelled = time.monotonic()
    fleet.cancel(audit)
    until(lambda: fleet.rows("SELECT state FROM runs") == [("CANCELLED",)], "the run to be cancelled", timeout=15.0)
    until(lambda: not alive(deaf), "the deaf process to end", timeout=15.0 - (time.monotonic() - cancelled))


def test_scratch_files_of_a_killed_worker_are_removed_and_those_of_a_living_one_kept(
    fleet: Fleet, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    fleet.hold()
    fleet.start_dispatcher()
    doomed = fleet.start_worker("doomed")
    fleet.submit(reference=None)
    fleet.wait_for_call()
    [left] = scratch.iterdir()
    doomed.kill()
    audit = fleet.submit(reference=None, prompt_set="hh-harmless-128")
    fleet.start_worker("living", concurrency=2)
    fleet.wait_for_call(3)
    living = {folder for folder in scratch.iterdir() if folder != left}
    assert len(living) == 2
    for folder in (left, *living):
        # Older than the age below which a folder may not have its lock yet.
        os.utime(folder, (time.time() - 3600, time.time() - 3600))
    third = fleet.start_worker("third")
    until(lambda: "removed what a killed worker left" in fleet.log("third"), "the sweep")
    assert set(scratch.iterdir()) == living
    third.send(signal.SIGTERM)
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    until(lambda: list(scratch.iterdir()) == [], "scratch to be empty")
