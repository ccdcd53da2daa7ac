"""Workers that die, freeze or leave: a run is taken up again and ends once, with one trace."""

import os
import signal
import threading

import pytest

from service.runs import transitions
from service.runs.kinds import Attempts
from spinal.errors import LeaseLost
from tests.support.fleet import Fleet
from tests.support.waiting import until


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nothing_breaks_when_nothing_is_broken(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    audits = [fleet.submit(seed) for seed in range(3)]
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=5, traces=2)


def test_kill_9_of_the_child_in_the_middle_of_a_run(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    child, _, _ = fleet.wait_for_call()
    os.kill(child, signal.SIGKILL)
    again, _, _ = fleet.wait_for_call(2)
    assert again != child
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=1, traces=1)
    assert fleet.rows("SELECT outcome FROM run_attempts ORDER BY attempt") == [("lost",), ("succeeded",)]


def test_kill_9_of_the_whole_worker(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    worker = fleet.start_worker("first", concurrency=2)
    audit = fleet.submit()
    fleet.wait_for_call(2)
    worker.kill()
    fleet.start_worker("second", concurrency=2)
    fleet.wait_for_call(4)
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=3, traces=2)
    assert sorted(str(outcome) for _, outcome in fleet.attempts()) == ["lost", "lost", *["succeeded"] * 3]


def test_a_run_that_kills_every_worker_ends_as_failed_with_its_history(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    for attempt in (1, 2, 3):
        child, _, _ = fleet.wait_for_call(attempt)
        os.kill(child, signal.SIGKILL)
    fleet.wait_for(audit, "FAILED")
    [(error,)] = fleet.rows("SELECT error FROM audits")
    assert error["code"] == "attempts_exhausted"
    assert [attempt["outcome"] for attempt in error["attempts"]] == ["lost"] * 3


def freeze_and_let_another_finish(fleet: Fleet) -> tuple[int, int]:
    """The worker ``first`` is frozen in the middle of a run that ``second`` then takes up and ends; returns the frozen
    processes, the parent first."""
    fleet.start_dispatcher()
    first = fleet.start_worker("first").pid
    audit = fleet.submit(reference=None)
    frozen, _, _ = fleet.wait_for_call()
    for pid in (frozen, first):
        os.kill(pid, signal.SIGSTOP)
    fleet.start_worker("second")
    fleet.wait_for_call(2)
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    return first, frozen


def wake(pids: tuple[int, ...]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_worker_that_wakes_after_its_lease_writes_nothing(fleet: Fleet) -> None:
    fleet.hold()
    zombies = freeze_and_let_another_finish(fleet)
    wake(zombies)
    # The zombie notices within a heartbeat and says so; what it holds is dropped, and the refusal is counted.
    until(lambda: " refused" in fleet.log("first"), "a refusal")
    refused = "SELECT refused_writes + refused_beats FROM run_attempts ORDER BY attempt"
    until(lambda: fleet.rows(refused)[0][0] > 0, "a count")
    assert fleet.rows(refused)[1] == (0,)
    fleet.ended_once(runs=1, traces=1)
    assert fleet.rows("SELECT outcome FROM run_attempts ORDER BY attempt") == [("lost",), ("succeeded",)]


def test_a_result_that_comes_after_the_run_was_taken_away_is_refused_and_replaces_nothing(fleet: Fleet) -> None:
    fleet.hold()
    # It does not look whether it is still wanted: nothing but the fence stands in its way.
    (fleet.double / "deaf").touch()
    zombies = freeze_and_let_another_finish(fleet)
    [winner] = fleet.rows("SELECT capture_uri, capture_bytes, document, created_at FROM traces")
    captures = fleet.folder / "artifacts"
    held = (captures / winner.capture_uri).read_bytes()
    wake(zombies)
    until(lambda: "zombie write refused" in fleet.log("first"), "the refusal of a result")
    assert fleet.rows("SELECT attempt, refused_writes FROM run_attempts ORDER BY attempt") == [(1, 1), (2, 0)]
    fleet.ended_once(runs=1, traces=1)
    # Its capture lies beside the winner's, under a name of its own, and no row names it.
    assert fleet.rows("SELECT capture_uri, capture_bytes, document, created_at FROM traces") == [winner]
    assert (captures / winner.capture_uri).read_bytes() == held
    assert len(list(captures.rglob("*.safetensors"))) == 2


def test_sigterm_puts_the_run_back_without_charging_the_attempt(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    worker = fleet.start_worker("first")
    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    worker.send(signal.SIGTERM)
    until(lambda: not worker.alive(), "the worker to leave", timeout=30.0)
    assert fleet.rows("SELECT state, attempt, charged_attempts FROM runs") == [("QUEUED", 1, 0)]
    fleet.go_on()
    fleet.start_worker("second")
    fleet.wait_for(audit, "SUCCEEDED")
    assert fleet.rows("SELECT outcome FROM run_attempts ORDER BY attempt") == [("released",), ("succeeded",)]


def test_cancelling_frees_the_worker(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    fleet.cancel(audit)
    until(lambda: fleet.rows("SELECT state FROM runs") == [("CANCELLED",)], "the run to be cancelled", timeout=15.0)
    fleet.go_on()
    other = fleet.submit(seed=1)
    fleet.wait_for(other, "SUCCEEDED")
    assert fleet.state(audit) == "CANCELLED"


def test_a_measurement_that_does_not_listen_is_ended_with_its_process(fleet: Fleet) -> None:
    fleet.hold()
    (fleet.double / "deaf").touch()
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    deaf, _, _ = fleet.wait_for_call()
    fleet.cancel(audit)
    until(lambda: not alive(deaf), "the deaf process to end", timeout=20.0)
    until(lambda: fleet.rows("SELECT state FROM runs") == [("CANCELLED",)], "the run to be cancelled", timeout=15.0)
    (fleet.double / "deaf").unlink()
    fleet.go_on()
    fleet.wait_for(fleet.submit(seed=1), "SUCCEEDED")


def test_two_claims_of_one_run_give_one(fleet: Fleet) -> None:
    fleet.submit(reference=None)
    [(run_id,)] = fleet.rows("SELECT id FROM runs")
    claims, barrier = [], threading.Barrier(8)

    def take(index: int) -> None:
        barrier.wait()
        with fleet.ledger.begin() as session:
            claims.append(transitions.claim(session, run_id, worker=f"w{index}", lease_s=60, deadline_s=60))

    threads = [threading.Thread(target=take, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(claim is not None for claim in claims) == 1


def test_every_write_of_an_old_attempt_is_refused(fleet: Fleet) -> None:
    fleet.submit(reference=None)
    [(run_id,)] = fleet.rows("SELECT id FROM runs")

    def claim(worker: str) -> transitions.Claim | None:
        with fleet.ledger.begin() as session:
            return transitions.claim(session, run_id, worker=worker, lease_s=60, deadline_s=60)

    old = claim("old")
    assert old is not None
    with fleet.ledger.begin() as session:
        assert transitions.expire_lease(session, "old") == run_id
        assert transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0)) == (run_id, "QUEUED")
    new = claim("new")
    assert new is not None
    assert new.attempt == old.attempt + 1
    writes = {
        "succeed": lambda s: transitions.succeed(s, run_id, old.attempt, "0" * 64),
        "fail": lambda s: transitions.fail(s, run_id, old.attempt, {}, retryable=False, max_attempts=3, backoff_s=0.0),
        "release": lambda s: transitions.release(s, run_id, old.attempt),
        "cancelled": lambda s: transitions.cancelled(s, run_id, old.attempt),
        "check_fence": lambda s: transitions.check_fence(s, run_id, old.attempt),
    }
    for name, write in writes.items():
        with pytest.raises(LeaseLost), fleet.ledger.begin() as session:
            write(session)
        assert fleet.rows("SELECT state, attempt FROM runs") == [("RUNNING", new.attempt)], name
    with fleet.ledger.begin() as session:
        assert not transitions.heartbeat(session, run_id, old.attempt, lease_s=60, progress=None).alive
