"""The fence: what a worker writes reaches its own attempt of its own run while that attempt lasts, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import store as audits
from service.audits.store import NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.runs import transitions as runs
from service.runs.demand import need_runs
from service.runs.kinds import Attempts
from service.runs.settle import settle_audit
from spinal.errors import LeaseLost
from tests.ledger.stored import made_trace, stored_trace

Write = Callable[[Session, UUID, int], object]
Row = dict[str, Any]

PROBLEM = {"code": "c", "detail": "d"}
LIMITS: dict[str, Any] = {"max_attempts": 9, "backoff_s": 0.0}
ENDS: dict[str, Write] = {
    "succeed": lambda session, run, attempt: runs.succeed(session, run, attempt, made_trace().digest),
    "try again": lambda session, run, attempt: runs.fail(session, run, attempt, PROBLEM, retryable=True, **LIMITS),
    "fail": lambda session, run, attempt: runs.fail(session, run, attempt, PROBLEM, retryable=False, **LIMITS),
    "release": runs.release,
    "stop": runs.cancelled,
}
"""How a worker may end an attempt."""
WRITES: dict[str, Write] = {
    **ENDS,
    "beat": lambda session, run, attempt: runs.heartbeat(session, run, attempt, lease_s=999.0, progress={"phase": "p"}),
    "look": runs.check_fence,
}
FENCED_BY_THEMSELVES = ("succeed", "try again", "fail", "stop")
"""Writes whose last statement is fenced as well, whatever was looked at before."""


@dataclass(frozen=True)
class World:
    """A run at its second attempt, and a bystander whose numbers are all the same."""

    ledger: Ledger
    run: UUID
    other: UUID

    def rows(self) -> dict[str, Row]:
        """Everything that a worker could write, by table and key."""
        tables = {"runs": "id", "run_attempts": "run_id, attempt", "audits": "id"}
        with self.ledger.read() as session:
            return {
                f"{table} {' '.join(str(row[part]) for part in key.split(', '))}": dict(row)
                for table, key in tables.items()
                for row in session.execute(text(f"SELECT * FROM {table}")).mappings()
            }

    def changed(self, before: dict[str, Row]) -> set[str]:
        after = self.rows()
        return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    def write(self, write: Write, attempt: int) -> object:
        with self.ledger.begin() as session:
            return write(session, self.run, attempt)


def claim(ledger: Ledger, run: UUID) -> int:
    with ledger.begin() as session:
        held = runs.claim(session, run, worker=f"w/{run}", lease_s=60.0, deadline_s=60.0)
    assert held is not None
    return held.attempt


@pytest.fixture
def world(ledger: Ledger) -> World:
    made = []
    with ledger.begin() as session:
        stored_trace(session)
    for name in ("own", "other"):
        audit = NewAudit(id=new_id(), tenant="t", candidate=name, reference=None)
        with ledger.begin() as session:
            found = need_runs(
                session,
                {"candidate": {"kind": "trace", "of": name}},
                queue_of=lambda _kind: "cpu",
                priority=0,
                traceparent=None,
            )
            audits.insert_audit(session, audit, found)
            settle_audit(session, audit.id)
        run = found["candidate"]
        with ledger.begin() as session:
            runs.release(session, run, claim(ledger, run))
        assert claim(ledger, run) == 2
        made.append(run)
    return World(ledger, *made)


def refused(world: World, write: Write, attempt: int) -> bool:
    """Whether the write was turned away, by an exception or by its answer."""
    try:
        answer = world.write(write, attempt)
    except LeaseLost:
        return True
    return isinstance(answer, runs.Beat) and not answer.alive


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("situation", ["taken away", "not begun", "queued again", "ended"])
def test_an_attempt_that_is_not_the_current_one_changes_nothing(world: World, name: str, situation: str) -> None:
    attempt = {"taken away": 1, "not begun": 3}.get(situation, 2)
    if situation == "queued again":
        world.write(ENDS["try again"], 2)
    elif situation == "ended":
        world.write(ENDS["fail"], 2)
    before = world.rows()
    assert refused(world, WRITES[name], attempt)
    assert world.changed(before) == set()


@pytest.mark.parametrize("name", FENCED_BY_THEMSELVES)
@pytest.mark.parametrize("attempt", [1, 3])
def test_the_statement_that_ends_an_attempt_is_fenced_although_the_run_was_looked_at_before(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, attempt: int
) -> None:
    monkeypatch.setattr(runs, "check_fence", lambda *_: False)
    before = world.rows()
    assert refused(world, ENDS[name], attempt)
    assert world.changed(before) == set()


@pytest.mark.parametrize("name", FENCED_BY_THEMSELVES)
def test_what_waits_in_the_queue_is_ended_by_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world.write(ENDS["try again"], 2)
    monkeypatch.setattr(runs, "check_fence", lambda *_: False)
    before = world.rows()
    assert refused(world, ENDS[name], 2)
    assert world.changed(before) == set()


@pytest.mark.parametrize("name", ENDS)
def test_an_attempt_ends_its_own_run_and_no_other(world: World, name: str) -> None:
    before = world.rows()
    world.write(ENDS[name], 2)
    changed = world.changed(before)
    assert {f"runs {world.run}", f"run_attempts {world.run} 2"} <= changed
    # The audit that waits for the run follows it; nothing else moves, least of all the earlier attempt.
    [audit] = changed - {f"runs {world.run}", f"run_attempts {world.run} 2"}
    assert before[audit]["candidate"] == "own"


def test_a_heartbeat_keeps_its_own_lease_and_no_other(world: World) -> None:
    before = world.rows()
    assert world.write(WRITES["beat"], 2) == runs.Beat(alive=True, cancel_requested=False)
    assert world.changed(before) == {f"runs {world.run}"}


@pytest.mark.parametrize("outcome", ["lost", "cancelled", "released", None])
def test_a_refusal_is_counted_only_for_an_attempt_that_was_taken_away(world: World, outcome: str | None) -> None:
    def end(session: Session, run: UUID, attempt: int) -> None:
        if outcome == "lost":
            runs.expire_lease(session, f"w/{run}")
            assert runs.reap_expired(session, attempts_of=lambda _kind: Attempts(9, 0.0)) == (run, "QUEUED")
        elif outcome is not None:
            (runs.cancelled if outcome == "cancelled" else runs.release)(session, run, attempt)

    world.write(end, 2)
    taken_away = outcome in ("lost", "cancelled")
    before = world.rows()
    for beat, count in ((False, "refused_writes"), (True, "refused_beats")):
        counted = world.write(lambda *key, beat=beat: runs.record_refusal(*key, beat=beat), 2)
        assert counted is taken_away
        assert world.rows()[f"run_attempts {world.run} 2"][count] == int(taken_away)
    assert world.changed(before) == ({f"run_attempts {world.run} 2"} if taken_away else set())


def test_a_dead_worker_loses_its_own_lease_and_no_other(world: World) -> None:
    before = world.rows()
    with world.ledger.begin() as session:
        assert runs.expire_lease(session, "nobody") is None
        assert runs.expire_lease(session, f"w/{world.run}") == world.run
    assert world.changed(before) == {f"runs {world.run}"}
