"""What a worker does when it is rung: the run that should go first, and no doorbell is spent on nothing."""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any
from uuid import UUID

from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import rings, transitions
from service.runs.demand import find_or_create_run
from service.settings import Settings
from tests.support.waiting import until
from worker import tasks


def make(ledger: Ledger, name: str, priority: int = 0) -> UUID:
    with ledger.begin() as session:
        return find_or_create_run(session, {"kind": "trace", "n": name}, queue="cpu", priority=priority)


def claim(ledger: Ledger, settings: Settings, monkeypatch: Any) -> Callable[[UUID], UUID | None]:
    monkeypatch.setattr(tasks, "_ledger", lambda: ledger)

    deliveries = count()

    def rung(run: UUID) -> UUID | None:
        claimed = tasks._claim(run, f"w/{next(deliveries)}", settings)
        return None if claimed is None else claimed.run_id

    return rung


def waits_for_a_lock(ledger: Ledger) -> bool:
    with ledger.read() as session:
        return bool(
            session.execute(
                text("""SELECT count(*) FROM pg_stat_activity
                        WHERE wait_event_type = 'Lock' AND datname = current_database()""")
            ).scalar_one()
        )


def ring_and_wait(ledger: Ledger, rung: Callable[[UUID], UUID | None], run: UUID) -> Callable[[], list[UUID | None]]:
    """Ring a worker and see it wait for a lock; what comes back tells what it started once it had one."""
    found: list[UUID | None] = []
    worker = threading.Thread(target=lambda: found.append(rung(run)))
    worker.start()
    until(lambda: waits_for_a_lock(ledger), "the worker to wait")

    def started() -> list[UUID | None]:
        worker.join(20.0)
        return found

    return started


def test_each_doorbell_starts_one_run_and_the_most_urgent_first(
    ledger: Ledger, settings: Settings, monkeypatch: Any
) -> None:
    rung = claim(ledger, settings, monkeypatch)
    later, urgent, soon = make(ledger, "later", -1), make(ledger, "urgent", 5), make(ledger, "soon")
    with ledger.begin() as session:
        assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 3
    # This one has its doorbell still to come: it takes nobody's.
    unrung = make(ledger, "not rung yet", 9)
    assert [rung(bell) for bell in (later, urgent, soon, later)] == [urgent, soon, later, None]
    assert rung(unrung) == unrung


def test_a_run_that_somebody_holds_for_a_moment_is_waited_for(
    ledger: Ledger, settings: Settings, monkeypatch: Any
) -> None:
    rung = claim(ledger, settings, monkeypatch)
    run = make(ledger, "held")
    with ledger.begin() as session:
        # As by a caller who has just come to share it.
        session.execute(text("UPDATE runs SET priority = 1 WHERE id = :id"), {"id": run})
        started = ring_and_wait(ledger, rung, run)
    assert started() == [run]


def test_two_doorbells_start_two_runs_although_one_is_held_when_they_are_heard(
    ledger: Ledger, settings: Settings, monkeypatch: Any
) -> None:
    rung = claim(ledger, settings, monkeypatch)
    held, other = make(ledger, "held"), make(ledger, "other")
    with ledger.begin() as session:
        assert len(rings.due_runs(session, ring_again_s=60.0, again=())) == 2
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET priority = 1 WHERE id = :id"), {"id": held})
        assert rung(held) == other
        started = ring_and_wait(ledger, rung, other)
    assert started() == [held]


def test_a_doorbell_whose_run_is_taken_while_it_waits_starts_another(
    ledger: Ledger, settings: Settings, monkeypatch: Any
) -> None:
    rung = claim(ledger, settings, monkeypatch)
    held = make(ledger, "held")
    with ledger.begin() as session:
        rings.due_runs(session, ring_again_s=60.0, again=())
    with ledger.begin() as session:
        assert transitions.claim(session, held, worker="another", lease_s=60.0, deadline_s=60.0) is not None
        started = ring_and_wait(ledger, rung, held)
        other = make(ledger, "other")
        with ledger.begin() as ringing:
            assert [run.run_id for run in rings.due_runs(ringing, ring_again_s=60.0, again=())] == [other]
    assert started() == [other]
