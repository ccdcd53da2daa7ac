"""Every condition of the statements that move runs, and every member that they write: rows that differ in one of them.

One transaction a test, so that database time stands still and the last moment of a lease can be hit exactly.
"""

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.runs import rings, transitions
from service.runs.kinds import Attempts
from service.runs.specs import newest_version
from spinal.errors import LeaseLost
from tests.ledger.rows import (
    MINUTE,
    OF_STATE,
    put_attempt,
    put_audit,
    put_dependency,
    put_run,
    put_trace,
    row,
    state_of,
)

NOW, TICK = timedelta(0), timedelta(microseconds=1)
PROBLEM = {"code": "c", "detail": "d"}
LIMITS: dict[str, Any] = {"max_attempts": 3, "backoff_s": 0.0}
OTHERS = [state for state in OF_STATE if state != "RUNNING"]


def held(session: Session, **members: Any) -> UUID:
    """A run at its second attempt, the first of which was lost."""
    run = put_run(session, "RUNNING", **({"attempt": 2, "charged_attempts": 2} | members))
    put_attempt(session, run, 1, "lost", error=PROBLEM)
    put_attempt(session, run, 2)
    return run


def without_indexes(session: Session) -> None:
    """Rows come as they lie: only what is ordered is in order."""
    session.execute(text("SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"))


def claim(session: Session, run: UUID, worker: str = "w") -> transitions.Claim | None:
    return transitions.claim(session, run, worker=worker, lease_s=60.0, deadline_s=90.0)


# claim

UNCLAIMABLE: dict[str, dict[str, Any]] = {
    **{state: {"state": state} for state in OF_STATE if state != "QUEUED"},
    "given up": {"cancel_requested": True},
    "not yet": {"not_before": TICK},
    "newer than this code": {"spec_version": newest_version() + 1},
    "of a kind that this code has not": {"kind": "later"},
}  # fmt: skip


@pytest.mark.parametrize("why", UNCLAIMABLE)
def test_a_run_is_not_claimed_for_one_reason(session: Session, why: str) -> None:
    other = put_run(session)
    run = put_run(session, **UNCLAIMABLE[why])
    assert claim(session, run) is None
    # Another run that could be claimed is not taken in its place.
    assert state_of(session, other) == "QUEUED"


@pytest.mark.parametrize("state", ["QUEUED", "RUNNING", "FAILED", "CANCELLED", "SUCCEEDED"])
def test_a_run_is_claimed_when_all_that_it_waits_for_has_succeeded(session: Session, state: str) -> None:
    run, done, needed, unrelated = (
        put_run(session),
        put_run(session, "SUCCEEDED"),
        put_run(session, state),
        put_run(session),
    )
    put_dependency(session, run, done)
    put_dependency(session, run, needed)
    put_dependency(session, needed, unrelated)
    assert (claim(session, run) is not None) == (state == "SUCCEEDED")


def test_what_a_claim_writes_and_returns(session: Session) -> None:
    run = put_run(
        session, attempt=4, charged_attempts=2, not_before=NOW, spec={"a": 1}, traceparent="00-x", progress={"p": 1},
        kind="compare", spec_version=newest_version(),
    )  # fmt: skip
    open_audits = [put_audit(session, state, {"compare": run}) for state in ("QUEUED", "RUNNING")]
    for state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        put_audit(session, state, {"compare": run}, **({"error": PROBLEM} if state == "FAILED" else {}))
    put_audit(session, "QUEUED", {"candidate": put_run(session)})
    found = claim(session, run, "me")
    assert found == transitions.Claim(run, 5, "compare", {"a": 1}, "00-x", tuple(sorted(open_audits)))
    written = row(session, "runs", run)
    assert (written["state"], written["attempt"], written["charged_attempts"]) == ("RUNNING", 5, 3)
    assert (written["worker"], written["progress"]) == ("me", None)
    assert (written["lease_until"], written["deadline_at"], written["started_at"]) == (
        timedelta(seconds=60), timedelta(seconds=90), NOW,
    )  # fmt: skip
    history = row(session, "run_attempts", run, "run_id")
    assert (history["attempt"], history["worker"], history["outcome"]) == (5, "me", None)
    assert row(session, "audits", open_audits[0])["state"] == "RUNNING"


def test_a_run_keeps_the_time_of_its_first_start(session: Session) -> None:
    run = put_run(session, started_at=-MINUTE)
    assert claim(session, run) is not None
    assert row(session, "runs", run)["started_at"] == -MINUTE


def test_a_delivery_that_holds_a_run_gets_no_second_one(session: Session) -> None:
    first, second = put_run(session), put_run(session)
    for state in OTHERS:
        put_run(session, state, worker="w")
    assert claim(session, first) is not None
    assert claim(session, second) is None
    assert claim(session, second, "v") is not None


def test_a_lost_claim_is_found_by_its_delivery(session: Session) -> None:
    for state in OTHERS:
        put_run(session, state, worker="me")
    put_run(session, "RUNNING", worker="another")
    assert transitions.held_claim(session, worker="me") is None
    run = put_run(session, "RUNNING", worker="me", attempt=3, spec={"a": 1}, traceparent="t")
    audits = sorted(
        put_audit(session, state, {"candidate": run}) for state in OF_STATE if state in ("QUEUED", "RUNNING")
    )
    for state in ("SUCCEEDED", "FAILED", "CANCELLED"):
        put_audit(session, state, {"candidate": run})
    expected = transitions.Claim(run, 3, "trace", {"a": 1}, "t", tuple(audits))
    assert transitions.held_claim(session, worker="me") == expected


# heartbeat


def test_what_a_heartbeat_writes(session: Session) -> None:
    run = put_run(session, "RUNNING", progress={"old": 1}, deadline_at=TICK)
    assert transitions.heartbeat(session, run, 1, lease_s=9.0, progress=None) == transitions.Beat(True, False)
    assert (row(session, "runs", run)["lease_until"], row(session, "runs", run)["progress"]) == (
        timedelta(seconds=9), {"old": 1},
    )  # fmt: skip
    transitions.heartbeat(session, run, 1, lease_s=9.0, progress={"new": 1})
    assert row(session, "runs", run)["progress"] == {"new": 1}


def test_a_heartbeat_ends_at_the_deadline(session: Session) -> None:
    run = put_run(session, "RUNNING", deadline_at=NOW, cancel_requested=True)
    assert transitions.heartbeat(session, run, 1, lease_s=9.0, progress=None) == transitions.Beat(False, False)
    assert row(session, "runs", run)["lease_until"] == MINUTE


@pytest.mark.parametrize("state", OTHERS)
def test_a_run_that_is_not_running_has_no_heart(session: Session, state: str) -> None:
    run = put_run(session, state, attempt=1, deadline_at=MINUTE)
    assert not transitions.heartbeat(session, run, 1, lease_s=9.0, progress=None).alive
    with pytest.raises(LeaseLost):
        transitions.check_fence(session, run, 1)


@pytest.mark.parametrize("unwanted", [True, False])
def test_a_worker_learns_that_nobody_wants_its_run(session: Session, unwanted: bool) -> None:
    run = put_run(session, "RUNNING", cancel_requested=unwanted)
    assert transitions.heartbeat(session, run, 1, lease_s=9.0, progress=None) == transitions.Beat(True, unwanted)
    assert transitions.check_fence(session, run, 1) is unwanted


# ends of an attempt


def ended(session: Session, run: UUID) -> dict[str, Any]:
    """What stands in the row of a run and of its second attempt."""
    found = row(session, "runs", run)
    return {
        **{name: found[name] for name in ("state", "lease_until", "finished_at", "result_digest", "error", "worker")},
        "attempts": (found["attempt"], found["charged_attempts"]),
        **{f"its {name}": row(session, "run_attempts", run, "run_id", attempt=2)[name]
           for name in ("outcome", "ended_at", "error")},
        "first": row(session, "run_attempts", run, "run_id", attempt=1)["outcome"],
    }  # fmt: skip


def end_of(run: UUID, **members: Any) -> dict[str, Any]:
    return {
        "lease_until": None, "finished_at": NOW, "result_digest": None, "error": None, "worker": f"w/{run}",
        "attempts": (2, 2), "its ended_at": NOW, "its error": None, "first": "lost",
    } | members  # fmt: skip


def test_what_success_writes(session: Session) -> None:
    run = held(session)
    seen: list[Session] = []
    audit = put_audit(session, "RUNNING", {"candidate": run})
    digest = put_trace(session, "9" * 64)
    assert transitions.succeed(session, run, 2, digest, seen.append) == "SUCCEEDED"
    assert ended(session, run) == end_of(run, state="SUCCEEDED", result_digest=digest, **{"its outcome": "succeeded"})
    assert row(session, "audits", audit)["state"] == "SUCCEEDED"
    assert seen == [session]


def test_what_failure_writes(session: Session) -> None:
    run = held(session)
    waiting, apart = put_run(session, kind="compare"), put_run(session, kind="compare")
    put_dependency(session, waiting, run)
    put_dependency(session, apart, waiting)
    audit = put_audit(session, "RUNNING", {"candidate": run, "compare": waiting})
    assert transitions.fail(session, run, 2, PROBLEM, retryable=False, **LIMITS) == "FAILED"
    assert ended(session, run) == end_of(
        run, state="FAILED", error=PROBLEM, **{"its outcome": "failed", "its error": PROBLEM}
    )
    failed = row(session, "runs", waiting)
    assert (failed["state"], failed["finished_at"]) == ("FAILED", NOW)
    assert (failed["error"]["code"], failed["error"]["cause"]) == ("dependency_failed", "c")
    assert state_of(session, apart) == "QUEUED"
    # The cause, not its consequence.
    found = row(session, "audits", audit)
    assert (found["state"], found["error"]) == ("FAILED", PROBLEM | {"role": "candidate"})


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED", "CANCELLED"])
def test_only_what_is_queued_fails_with_what_it_waits_for(session: Session, state: str) -> None:
    run = held(session)
    waiting = put_run(session, state)
    put_dependency(session, waiting, run)
    transitions.fail(session, run, 2, PROBLEM, retryable=False, **LIMITS)
    assert state_of(session, waiting) == state


def test_what_another_try_writes(session: Session) -> None:
    run = held(session, rung_at=-MINUTE, progress={"p": 1})
    audit = put_audit(session, "RUNNING", {"candidate": run})
    assert transitions.fail(session, run, 2, PROBLEM, retryable=True, max_attempts=3, backoff_s=10.0) == "QUEUED"
    assert ended(session, run) == end_of(
        run, state="QUEUED", finished_at=None, worker=None, **{"its outcome": "retry", "its error": PROBLEM}
    )
    found = row(session, "runs", run)
    assert (found["rung_at"], found["progress"]) == (None, None)
    # Twice the pause for the second charged attempt, half to one and a half of it.
    assert timedelta(seconds=10) <= found["not_before"] <= timedelta(seconds=30)
    assert row(session, "audits", audit)["state"] == "QUEUED"


def test_the_pause_before_the_second_attempt_is_the_one_that_was_asked_for(session: Session) -> None:
    pauses = []
    for _ in range(40):
        run = put_run(session, "RUNNING")
        put_attempt(session, run, 1)
        transitions.fail(session, run, 1, PROBLEM, retryable=True, max_attempts=3, backoff_s=10.0)
        pauses.append(row(session, "runs", run)["not_before"] / timedelta(seconds=10))
    assert 0.5 <= min(pauses) < 0.75
    assert 1.25 < max(pauses) <= 1.5


def test_the_attempts_end_at_their_number_with_the_whole_history(session: Session) -> None:
    run = held(session, charged_attempts=2)
    put_attempt(session, put_run(session), 1, "failed", error={"code": "another run's"})
    assert transitions.fail(session, run, 2, PROBLEM, retryable=True, max_attempts=2, backoff_s=0.0) == "FAILED"
    error = row(session, "runs", run)["error"]
    assert (error["code"], error["last_code"]) == ("attempts_exhausted", "c")
    # Without the worker, whose name is that of a host: tenants read it.
    assert error["attempts"] == [
        {"attempt": 1, "outcome": "lost", "code": "c", "detail": "d"},
        {"attempt": 2, "outcome": "failed", "code": "c", "detail": "d"},
    ]


def test_what_a_release_writes(session: Session) -> None:
    run = held(session, rung_at=-MINUTE, progress={"p": 1}, not_before=-MINUTE)
    audit = put_audit(session, "RUNNING", {"candidate": run})
    transitions.release(session, run, 2, pause_s=7.0)
    assert ended(session, run) == end_of(
        run, state="QUEUED", finished_at=None, worker=None, attempts=(2, 1), **{"its outcome": "released"}
    )
    found = row(session, "runs", run)
    assert (found["rung_at"], found["progress"], found["not_before"]) == (None, None, timedelta(seconds=7))
    assert row(session, "audits", audit)["state"] == "QUEUED"


@pytest.mark.parametrize("how", ["succeed", "retry", "release", "stop"])
def test_what_nobody_wants_ends_as_cancelled(session: Session, how: str) -> None:
    run = held(session, cancel_requested=True)
    stored: list[Session] = []
    if how == "succeed":
        assert transitions.succeed(session, run, 2, "0" * 64, stored.append) == "CANCELLED"
    elif how == "retry":
        assert transitions.fail(session, run, 2, PROBLEM, retryable=True, **LIMITS) == "CANCELLED"
    else:
        (transitions.release if how == "release" else transitions.cancelled)(session, run, 2)
    assert ended(session, run) == end_of(run, state="CANCELLED", **{"its outcome": "cancelled"})
    assert stored == []


def test_what_nobody_wants_still_fails_for_good(session: Session) -> None:
    run = held(session, cancel_requested=True)
    assert transitions.fail(session, run, 2, PROBLEM, retryable=False, **LIMITS) == "FAILED"


def test_an_outcome_is_read_back_by_run_and_attempt(session: Session) -> None:
    other = put_run(session)
    for attempt, outcome in ((1, "retry"), (2, "failed")):
        put_attempt(session, other, attempt, outcome)
    run = held(session)
    assert (transitions.attempt_outcome(session, run, 1), transitions.attempt_outcome(session, run, 2)) == (
        "lost",
        None,
    )
    assert transitions.attempt_outcome(session, run, 3) is None


def test_results_of_dependencies_are_those_that_succeeded(session: Session) -> None:
    run, other = put_run(session), put_run(session)
    done = put_run(session, "SUCCEEDED", spec_digest="one", result_digest="r1")
    for state in ("QUEUED", "RUNNING", "FAILED", "CANCELLED"):
        put_dependency(session, run, put_run(session, state))
    put_dependency(session, run, done)
    put_dependency(session, other, put_run(session, "SUCCEEDED", spec_digest="two", result_digest="r2"))
    put_run(session, "SUCCEEDED", spec_digest="three", result_digest="r3")
    assert transitions.dependency_results(session, run) == {"one": "r1"}


# the reaper


def reap(session: Session, *, most: int = 3, only: UUID | None = None) -> tuple[UUID, str] | None:
    return transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(most, 0.0), only=only)


def test_a_lease_is_taken_back_at_its_end_and_not_before(session: Session) -> None:
    alive = held(session, lease_until=TICK)
    assert reap(session) is None
    run = held(session, lease_until=NOW)
    assert reap(session) == (run, "QUEUED")
    found = ended(session, run)
    assert (found["state"], found["its outcome"], found["its error"]["code"]) == ("QUEUED", "lost", "lease_lost")
    assert state_of(session, alive) == "RUNNING"


def test_what_expired_first_is_taken_back_first(session: Session) -> None:
    without_indexes(session)
    late, early, middle = (held(session, lease_until=-n * MINUTE) for n in (1, 3, 2))
    assert [reap(session), reap(session), reap(session)] == [(one, "QUEUED") for one in (early, middle, late)]


def test_only_the_named_run_is_taken_back(session: Session) -> None:
    early, late = (held(session, lease_until=-n * MINUTE) for n in (2, 1))
    assert reap(session, only=uuid4()) is None
    assert reap(session, only=late) == (late, "QUEUED")
    assert state_of(session, early) == "RUNNING"


def test_an_unwanted_run_is_cancelled_when_its_lease_ends(session: Session) -> None:
    run = held(session, lease_until=NOW, cancel_requested=True)
    assert reap(session) == (run, "CANCELLED")
    assert ended(session, run) == end_of(run, state="CANCELLED", **{"its outcome": "cancelled"})


@pytest.mark.parametrize(("deadline", "code"), [(NOW, "deadline_exceeded"), (TICK, "lease_lost")])
def test_a_run_fails_after_its_last_lease_with_the_reason(session: Session, deadline: timedelta, code: str) -> None:
    run = held(session, lease_until=NOW, deadline_at=deadline)
    waiting = put_run(session)
    put_dependency(session, waiting, run)
    assert reap(session, most=2) == (run, "FAILED")
    error = row(session, "runs", run)["error"]
    assert (error["code"], error["last_code"]) == ("attempts_exhausted", code)
    assert [one["outcome"] for one in error["attempts"]] == ["lost", "lost"]
    assert f"w/{run}" not in str(error)
    assert state_of(session, waiting) == "FAILED"
    assert ended(session, run) == end_of(
        run, state="FAILED", error=error, **{"its outcome": "lost", "its error": error}
    )


@pytest.mark.parametrize("state", OTHERS)
def test_only_running_runs_have_a_lease_to_lose(session: Session, state: str) -> None:
    put_run(session, state, worker="w")
    assert reap(session) is None
    assert transitions.expire_lease(session, "w") is None


def test_a_dead_workers_lease_ends_now(session: Session) -> None:
    run = put_run(session, "RUNNING", worker="w")
    assert transitions.expire_lease(session, "w") == run
    assert row(session, "runs", run)["lease_until"] == NOW


@pytest.mark.parametrize("how", ["succeed", "fail", "retry", "release", "stop", "reap"])
def test_every_end_of_an_attempt_wakes_the_dispatchers(
    session: Session, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    woken: list[UUID] = []
    monkeypatch.setattr(transitions, "wake_dispatchers", lambda _session, run: woken.append(run))
    run = held(session, lease_until=NOW)
    if how == "succeed":
        transitions.succeed(session, run, 2, "0" * 64)
    elif how in ("fail", "retry"):
        transitions.fail(session, run, 2, PROBLEM, retryable=how == "retry", **LIMITS)
    elif how == "reap":
        reap(session)
    else:
        (transitions.release if how == "release" else transitions.cancelled)(session, run, 2)
    assert woken == [run]


def test_only_the_attempt_itself_ends_and_only_once(session: Session) -> None:
    run = put_run(session, "RUNNING", attempt=2)
    for attempt in (1, 2, 3):
        put_attempt(session, run, attempt)
    transitions._end_attempt(session, run, 2, "released", None)
    # What comes later changes nothing: the history has its trigger, which would end the whole transaction.
    transitions._end_attempt(session, run, 2, "failed", PROBLEM)
    outcomes = [row(session, "run_attempts", run, "run_id", attempt=attempt)["outcome"] for attempt in (1, 2, 3)]
    assert outcomes == [None, "released", None]


@pytest.mark.parametrize("outcome", [None, "succeeded", "failed", "cancelled", "released", "lost", "retry"])
@pytest.mark.parametrize("beat", [True, False])
def test_a_refused_write_is_counted_for_an_attempt_that_was_taken_away(
    session: Session, outcome: str | None, beat: bool
) -> None:
    run, other = put_run(session), put_run(session)
    for of, attempt, how in ((run, 1, "lost"), (run, 2, outcome), (run, 3, "lost"), (other, 2, "lost")):
        put_attempt(session, of, attempt, how)
    taken_away = outcome in ("lost", "cancelled")
    for count in (1, 2):
        assert transitions.record_refusal(session, run, 2, beat=beat) is taken_away
        found = row(session, "run_attempts", run, "run_id", attempt=2)
        expected = count if taken_away else 0
        assert (found["refused_beats"], found["refused_writes"]) == ((expected, 0) if beat else (0, expected))
    for of, attempt in ((run, 1), (run, 3), (other, 2)):
        found = row(session, "run_attempts", of, "run_id", attempt=attempt)
        assert (found["refused_beats"], found["refused_writes"]) == (0, 0)


@pytest.mark.parametrize("hint", [None, "look here"])
def test_the_history_of_attempts_is_in_their_order_with_the_last_hint(session: Session, hint: str | None) -> None:
    run = put_run(session, "RUNNING", attempt=3, charged_attempts=3)
    for attempt in (3, 1, 2):
        put_attempt(session, run, attempt, None if attempt == 3 else "lost")
    problem = PROBLEM | ({"hint": hint} if hint else {})
    assert transitions.fail(session, run, 3, problem, retryable=True, **LIMITS) == "FAILED"
    error = row(session, "runs", run)["error"]
    assert [one["attempt"] for one in error["attempts"]] == [1, 2, 3]
    assert error["hint"] == (hint or "look at the history of attempts; submit again when the cause is removed")


# what waits in vain


@pytest.mark.parametrize("state", OF_STATE)
def test_what_waits_for_something_that_will_not_come_fails(session: Session, state: str) -> None:
    run, needed, unrelated = put_run(session), put_run(session, state), put_run(session, "FAILED")
    put_dependency(session, run, needed)
    # Others, of which one waits for something that goes well and one for what has failed but has ended itself.
    put_dependency(session, put_run(session), put_run(session, "SUCCEEDED"))
    put_dependency(session, put_run(session, "FAILED"), put_run(session, "FAILED"))
    put_run(session)
    audit = put_audit(session, "QUEUED", {"compare": run})
    in_vain = state in ("FAILED", "CANCELLED")
    assert transitions.fail_orphans(session) == ([(run, "FAILED")] if in_vain else [])
    assert state_of(session, unrelated) == "FAILED"
    assert row(session, "audits", audit)["state"] == ("FAILED" if in_vain else "QUEUED")
    if in_vain:
        found = row(session, "runs", run)
        assert (found["finished_at"], found["error"]["code"]) == (NOW, "dependency_failed")


@pytest.mark.parametrize("state", OF_STATE)
def test_what_waits_unwanted_is_cancelled(session: Session, state: str) -> None:
    unwanted = put_run(session, state, cancel_requested=True)
    put_run(session)
    audit = put_audit(session, "QUEUED", {"candidate": unwanted})
    queued = state == "QUEUED"
    assert transitions.fail_orphans(session) == ([(unwanted, "CANCELLED")] if queued else [])
    assert row(session, "audits", audit)["state"] == ("CANCELLED" if queued else "QUEUED")


@pytest.mark.parametrize("state", OTHERS[1:])
def test_what_has_ended_waits_for_nothing(session: Session, state: str) -> None:
    run = put_run(session, state)
    put_dependency(session, run, put_run(session, "FAILED"))
    assert transitions.fail_orphans(session) == []


# doorbells


def rung(session: Session, again: tuple[str, ...] = (), limit: int = 99) -> list[rings.Due]:
    return rings.due_runs(session, ring_again_s=60.0, again=again, limit=limit)


@pytest.mark.parametrize("why", [why for why in UNCLAIMABLE if "this code" not in why])
def test_nobody_is_rung_for_what_cannot_start(session: Session, why: str) -> None:
    put_run(session, **UNCLAIMABLE[why])
    assert rung(session) == []


def test_a_ring_is_stamped_and_said_how_late_it_comes(session: Session) -> None:
    done = put_run(session, "SUCCEEDED", finished_at=-3 * MINUTE)
    after_its_birth = put_run(session, created_at=-2 * MINUTE, not_before=-4 * MINUTE, priority=3)
    after_its_pause = put_run(session, created_at=-9 * MINUTE, not_before=-MINUTE, priority=2)
    after_another = put_run(session, created_at=-9 * MINUTE, not_before=-8 * MINUTE, priority=1, queue="gpu")
    put_dependency(session, after_another, done)
    put_dependency(session, after_another, put_run(session, "SUCCEEDED", finished_at=-7 * MINUTE))
    put_dependency(session, put_run(session, "RUNNING"), put_run(session, "SUCCEEDED", finished_at=NOW))
    assert set(rung(session)) == {
        rings.Due(after_its_birth, "cpu", 120.0),
        rings.Due(after_its_pause, "cpu", 60.0),
        rings.Due(after_another, "gpu", 180.0),
    }
    assert row(session, "runs", after_another)["rung_at"] == NOW
    assert rung(session) == []


def test_what_was_rung_is_rung_again_in_a_queue_that_does_not_answer(session: Session) -> None:
    old = put_run(session, rung_at=-MINUTE - TICK)
    put_run(session, rung_at=-MINUTE)
    put_run(session, rung_at=-2 * MINUTE, queue="gpu")
    assert rung(session) == []
    assert rung(session, ("cpu",)) == [rings.Due(old, "cpu", None)]
    assert row(session, "runs", old)["rung_at"] == NOW


def test_rings_go_out_by_priority_then_age_and_no_more_than_asked_for(session: Session) -> None:
    without_indexes(session)
    new, old, urgent = (
        put_run(session, created_at=-MINUTE), put_run(session, created_at=-2 * MINUTE), put_run(session, priority=1),
    )  # fmt: skip
    order = [[due.run_id for due in rung(session, limit=1)] for _ in range(4)]
    assert order == [[urgent], [old], [new], []]


def test_a_hundred_are_rung_at_a_time(session: Session) -> None:
    for _ in range(101):
        put_run(session)
    assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 100
    assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 1


@pytest.mark.parametrize("state", OF_STATE)
def test_a_run_is_found_by_its_id_while_it_waits(session: Session, state: str) -> None:
    put_run(session)
    run = put_run(session, state, kind="compare")
    put_run(session)
    assert rings.queued_run(session, run) == (rings.Queued(run, "compare") if state == "QUEUED" else None)
    assert rings.queued_run(session, uuid4()) is None


def test_queues_that_do_not_answer(session: Session) -> None:
    for rung_at in (-MINUTE - TICK, NOW):
        put_run(session, rung_at=rung_at)
    put_run(session)
    put_run(session, rung_at=-MINUTE, queue="prompt")
    for state in OF_STATE:
        if state != "QUEUED":
            put_run(session, state, rung_at=-9 * MINUTE, queue="taken")
    assert rings.unanswered(session, ring_again_s=60.0) == {"cpu": 2}
    for _ in range(rings.ENOUGH_DOORBELLS):
        put_run(session, rung_at=NOW)
    assert rings.unanswered(session, ring_again_s=60.0) == {"cpu": rings.ENOUGH_DOORBELLS}


@pytest.mark.parametrize("why", UNCLAIMABLE)
def test_a_doorbell_starts_nothing_that_cannot_start(session: Session, why: str) -> None:
    run = put_run(session, rung_at=NOW, **UNCLAIMABLE[why])
    assert rings.next_run(session, run) is None


def test_a_doorbell_starts_the_best_of_its_own_queue_that_was_rung(session: Session) -> None:
    bell = put_run(session, rung_at=NOW, created_at=-MINUTE)
    put_run(session, priority=9)
    put_run(session, priority=9, rung_at=NOW, queue="gpu")
    waiting = put_run(session, priority=9, rung_at=NOW)
    put_dependency(session, waiting, put_run(session))
    assert rings.next_run(session, bell) == rings.Queued(bell, "trace")
    older = put_run(session, rung_at=NOW, created_at=-2 * MINUTE)
    assert rings.next_run(session, bell) == rings.Queued(older, "trace")
    urgent = put_run(session, rung_at=NOW, priority=1, spec_version=newest_version(), not_before=NOW)
    assert rings.next_run(session, bell) == rings.Queued(urgent, "trace")


def test_a_ring_that_the_broker_did_not_take_is_forgotten(session: Session) -> None:
    bells = [put_run(session, state, rung_at=NOW, worker="w") for state in ("QUEUED", "RUNNING")]
    other = put_run(session, rung_at=NOW)
    rings.mark_not_rung(session, bells)
    assert [row(session, "runs", run)["rung_at"] for run in (*bells, other)] == [None, NOW, NOW]
