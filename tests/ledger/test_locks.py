"""What transactions lock and in which order, and what they pass by when others hold it: seen by another transaction."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.audits import store
from service.database.unit_of_work import Ledger
from service.runs import demand, rings, transitions
from service.runs.kinds import Attempts
from service.runs.settle import settle
from service.series import store as series_store
from tests.ledger.rows import MINUTE, OF_STATE, put_attempt, put_audit, put_dependency, put_run, put_series, state_of

OPEN = ("QUEUED", "RUNNING")
PROBLEM = {"code": "c", "detail": "d"}
Locked = Callable[..., set[UUID]]


@pytest.fixture
def unlocked(shared_ledger: Ledger) -> Locked:
    """Those of some rows that no transaction holds."""

    def look(ids: list[UUID], table: str = "runs") -> set[UUID]:
        with shared_ledger.begin() as other:
            query = text(f"SELECT id FROM {table} WHERE id = ANY(:ids) FOR NO KEY UPDATE SKIP LOCKED")
            return set(other.execute(query, {"ids": ids}).scalars())

    return look


@pytest.fixture
def committed(shared_ledger: Ledger) -> Iterator[Session]:
    """A session whose rows other transactions see once they are committed; put away afterwards."""
    with Session(shared_ledger.engine) as opened:
        yield opened
        opened.rollback()
        opened.execute(text("TRUNCATE runs, audits, series, policies, tenant_counts, tenant_count_changes CASCADE"))
        opened.commit()


@pytest.fixture
def impatient(shared_ledger: Ledger) -> Iterator[Session]:
    """A session that would rather fail than wait for a lock; its transaction begins when the test first uses it."""
    with shared_ledger.engine.connect() as connection, Session(connection) as opened:
        opened.execute(text("SET lock_timeout = '500ms'"))
        opened.commit()
        yield opened
        opened.rollback()
        opened.execute(text("RESET lock_timeout"))
        opened.commit()


def hold(session: Session, *runs: UUID) -> None:
    session.execute(text("SELECT 1 FROM runs WHERE id = ANY(:ids) FOR UPDATE"), {"ids": list(runs)})


# what is locked


def test_what_cancelling_locks(committed: Session, unlocked: Locked) -> None:
    of_state = {state: put_run(committed, state) for state in OF_STATE}
    unrelated = put_run(committed)
    audit = put_audit(committed, runs={state.lower(): run for state, run in of_state.items()})
    put_audit(committed, runs={"candidate": unrelated})
    committed.commit()
    demand.lock_runs_of(committed, audit)
    runs = [*of_state.values(), unrelated]
    assert unlocked(runs) == {*runs} - {of_state[state] for state in OPEN}


def test_cancelling_holds_all_that_the_audit_needs_in_flight(committed: Session, unlocked: Locked) -> None:
    """Also what another audit needs: neither may give up what the other has just counted on."""
    mine, shared = put_run(committed, "RUNNING"), put_run(committed)
    audit = put_audit(committed, runs={"candidate": mine, "reference": shared})
    put_audit(committed, runs={"candidate": shared})
    committed.commit()
    assert store.cancel_audit(committed, "t", audit)
    assert unlocked([mine, shared]) == set()


def test_whoever_appends_to_a_series_holds_it(committed: Session, unlocked: Locked) -> None:
    one, other = put_series(committed), put_series(committed)
    committed.commit()
    assert series_store.lock_series(committed, "t", one)
    assert unlocked([one, other], "series") == {other}


def test_only_what_waits_is_locked_to_be_rung_again(committed: Session, unlocked: Locked) -> None:
    of_state = {state: put_run(committed, state) for state in OF_STATE}
    other = put_run(committed)
    committed.commit()
    rings.mark_not_rung(committed, list(of_state.values()))
    runs = [*of_state.values(), other]
    assert unlocked(runs) == {*runs} - {of_state["QUEUED"]}


def test_a_fence_holds_its_run(committed: Session, unlocked: Locked) -> None:
    run, other = put_run(committed, "RUNNING"), put_run(committed, "RUNNING")
    committed.commit()
    assert transitions.check_fence(committed, run, 1) is False
    assert unlocked([run, other]) == {other}


def test_a_run_that_is_about_to_start_is_held(committed: Session, unlocked: Locked) -> None:
    run, other = put_run(committed, rung_at=MINUTE, priority=1), put_run(committed, rung_at=MINUTE)
    committed.commit()
    assert rings.next_run(committed, other) == rings.Queued(run, "trace")
    assert unlocked([run, other]) == {other}


# in which order


def _cancel(waiting: Session, audit: UUID, _runs: list[UUID], _needed: UUID) -> None:
    demand.lock_runs_of(waiting, audit)


def _not_rung(waiting: Session, _audit: UUID, runs: list[UUID], _needed: UUID) -> None:
    rings.mark_not_rung(waiting, runs)


def _fail(waiting: Session, _audit: UUID, _runs: list[UUID], needed: UUID) -> None:
    transitions.fail(waiting, needed, 1, PROBLEM, retryable=False, max_attempts=1, backoff_s=0.0)


@pytest.fixture
def while_waiting(shared_ledger: Ledger) -> Iterator[Callable[[Callable[[Session], Any]], None]]:
    """Begins a transaction in a thread and returns when it waits for a lock."""
    threads: list[threading.Thread] = []

    def begin(act: Callable[[Session], Any]) -> None:
        def run() -> None:
            with shared_ledger.begin() as session:
                act(session)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        until = time.monotonic() + 20.0
        waits = 0
        while not waits and time.monotonic() < until:
            # Another transaction each time: what one saw of the activity it sees to its end.
            with shared_ledger.read() as looking:
                waits = looking.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar_one()
        assert waits, "nobody waits"

    yield begin
    for thread in threads:
        thread.join(30.0)


@pytest.mark.parametrize("act", [_cancel, _not_rung, _fail])
@pytest.mark.parametrize("depths", [(None, None, None), (0, 1, 2)])
@pytest.mark.parametrize(("kinds", "digests"), [("ttt", "abc"), ("ttc", "bca"), ("tcc", "cab"), ("ccc", "abc")])
def test_runs_are_locked_by_depth_then_by_specification(
    committed: Session, unlocked: Locked, while_waiting: Callable[..., None], kinds: str, digests: str, act: Any,
    depths: tuple[int | None, ...],
) -> None:  # fmt: skip
    """A transaction that waits for the second of three runs holds the first, and not the third. Runs of the release
    before have no depth: of those only comparisons need others."""
    if None not in depths:
        # The depth decides, whatever the kind and the digest.
        kinds, digests = kinds[::-1], digests[::-1]
    runs = [
        put_run(
            committed, kind={"t": "trace", "c": "compare"}[kind], spec_digest=digest * 64, rung_at=MINUTE, depth=depth
        )
        for kind, digest, depth in reversed(list(zip(kinds, digests, depths, strict=True)))
    ][::-1]
    needed, unrelated, apart = put_run(committed, "RUNNING"), put_run(committed), put_run(committed)
    put_attempt(committed, needed, 1)
    for run in runs:
        put_dependency(committed, run, needed)
    put_dependency(committed, apart, unrelated)
    audit = put_audit(committed, runs=dict(zip("xyz", runs, strict=True)))
    committed.commit()
    hold(committed, runs[1])
    while_waiting(lambda session: act(session, audit, runs, needed))
    assert unlocked([*runs, unrelated, apart]) == {runs[2], unrelated, apart}
    committed.rollback()


def test_audits_are_locked_by_id(committed: Session, unlocked: Locked, while_waiting: Callable[..., None]) -> None:
    run = put_run(committed)
    first, second, third = (UUID(int=n) for n in (1, 2, 3))
    for audit in (third, first, second):
        put_audit(committed, id=audit)
        committed.execute(text(f"INSERT INTO audit_runs VALUES ('{audit}', 'candidate', '{run}')"))
    committed.commit()
    committed.execute(text("SELECT 1 FROM audits WHERE id = :id FOR UPDATE"), {"id": second})
    while_waiting(lambda session: settle(session, [run]))
    assert unlocked([first, second, third], "audits") == {third}
    committed.rollback()


# what is passed by


def test_a_doorbell_passes_by_what_others_hold(committed: Session, impatient: Session, unlocked: Locked) -> None:
    best, next_best, bell = (put_run(committed, priority=n, rung_at=MINUTE) for n in (9, 5, 1))
    committed.commit()
    hold(committed, best)
    assert rings.next_run(impatient, bell) == rings.Queued(next_best, "trace")
    assert unlocked([next_best, bell]) == {bell}


def test_a_doorbell_of_what_others_hold_answers_with_itself_or_the_best(committed: Session, impatient: Session) -> None:
    oldest, young = (put_run(committed, rung_at=MINUTE, priority=5, created_at=-n * MINUTE) for n in (9, 1))
    bell = put_run(committed, rung_at=MINUTE)
    done = put_run(committed, "SUCCEEDED")
    committed.commit()
    hold(committed, oldest, young, bell)
    assert rings.next_run(impatient, bell) == rings.Queued(bell, "trace")
    assert rings.next_run(impatient, done) == rings.Queued(oldest, "trace")


def test_two_dispatchers_share_out_what_is_due(committed: Session, impatient: Session) -> None:
    held, free = put_run(committed, priority=1), put_run(committed)
    committed.commit()
    hold(committed, held)
    found = rings.due_runs(impatient, ring_again_s=60.0, again=(), limit=1)
    assert [due.run_id for due in found] == [free]


def test_two_reapers_share_out_what_has_expired(committed: Session, impatient: Session) -> None:
    held, free = (put_run(committed, "RUNNING", lease_until=-n * MINUTE) for n in (2, 1))
    for run in (held, free):
        put_attempt(committed, run, 1)
    committed.commit()
    hold(committed, held)
    found = transitions.reap_expired(impatient, attempts_of=lambda _kind: Attempts(3, 0.0))
    assert found == (free, "QUEUED")


@pytest.mark.parametrize("why", ["unwanted", "in vain"])
def test_what_waits_in_vain_and_is_held_is_left_for_later(committed: Session, impatient: Session, why: str) -> None:
    runs = [put_run(committed, cancel_requested=why == "unwanted") for _ in range(2)]
    failed = put_run(committed, "FAILED")
    if why == "in vain":
        for run in runs:
            put_dependency(committed, run, failed)
    committed.commit()
    hold(committed, runs[0])
    state = "CANCELLED" if why == "unwanted" else "FAILED"
    assert transitions.fail_orphans(impatient) == [(runs[1], state)]
    assert state_of(impatient, runs[1]) == state
