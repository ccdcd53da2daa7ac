"""The transitions of runs against a real database."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import demand, rings, transitions
from service.runs.kinds import Attempts
from worker.metrics import LedgerCollector

SPEC = {"kind": "trace", "model": "local:x"}


def make(ledger: Ledger, spec: dict[str, str] | None = None, **options: Any) -> UUID:
    with ledger.begin() as session:
        return demand.find_or_create_run(session, spec or SPEC, queue="cpu", **options)


def claim(ledger: Ledger, run: UUID, *, lease_s: float = 60.0) -> transitions.Claim | None:
    with ledger.begin() as session:
        return transitions.claim(session, run, worker="w", lease_s=lease_s, deadline_s=600.0)


def column(ledger: Ledger, run: UUID, name: str) -> object:
    with ledger.read() as session:
        return session.execute(text(f"SELECT {name} FROM runs WHERE id = :id"), {"id": run}).scalar_one()


def fail(ledger: Ledger, held: transitions.Claim, *, retryable: bool, most: int = 3) -> str:
    with ledger.begin() as session:
        return transitions.fail(
            session, held.run_id, held.attempt, {"code": "c", "detail": "d"}, retryable=retryable, max_attempts=most,
            backoff_s=0.0,
        )  # fmt: skip


def test_parallel_requests_for_one_specification_share_one_run(ledger: Ledger) -> None:
    with ThreadPoolExecutor(10) as pool:
        found = set(pool.map(lambda _: make(ledger), range(50)))
    assert len(found) == 1


def test_a_failed_run_is_not_reused(ledger: Ledger) -> None:
    first = make(ledger)
    held = claim(ledger, first)
    assert held is not None
    assert fail(ledger, held, retryable=False) == "FAILED"
    assert make(ledger) != first


def test_a_retryable_failure_waits_and_then_ends(ledger: Ledger) -> None:
    run = make(ledger)
    states = []
    for _ in range(3):
        held = claim(ledger, run)
        assert held is not None
        states.append(fail(ledger, held, retryable=True))
    assert states == ["QUEUED", "QUEUED", "FAILED"]


def test_a_retry_waits_longer_each_time_and_not_for_the_same_time_as_others(ledger: Ledger) -> None:
    waits: dict[int, list[float]] = {1: [], 2: []}
    for number in range(12):
        run = make(ledger, {"kind": "trace", "n": f"backoff {number}"})
        for attempt, found in waits.items():
            held = claim(ledger, run)
            assert held is not None
            with ledger.begin() as session:
                transitions.fail(
                    session, run, held.attempt, {"code": "c"}, retryable=True, max_attempts=3, backoff_s=100.0
                )
                wait = text("SELECT EXTRACT(epoch FROM not_before - now()) FROM runs WHERE id = :id")
                found.append(float(session.execute(wait, {"id": run}).scalar_one()))
            assert claim(ledger, run) is None, f"claimed before its time, after attempt {attempt}"
            with ledger.begin() as session:
                assert rings.due_runs(session, ring_again_s=0.0, again=("cpu",)) == []
                session.execute(text("UPDATE runs SET not_before = now() WHERE id = :id"), {"id": run})
        held = claim(ledger, run)
        assert held is not None
        with ledger.begin() as session:
            transitions.release(session, run, held.attempt)
            session.execute(text("UPDATE runs SET not_before = now() + interval '1 day' WHERE id = :id"), {"id": run})
    for attempt, found in waits.items():
        base = 100.0 * 2 ** (attempt - 1)
        assert all(0.5 * base <= wait <= 1.5 * base for wait in found)
        assert max(found) - min(found) > 0.1 * base


def test_a_release_is_not_charged(ledger: Ledger) -> None:
    run = make(ledger)
    for _ in range(5):
        held = claim(ledger, run)
        assert held is not None
        with ledger.begin() as session:
            transitions.release(session, run, held.attempt)
    assert column(ledger, run, "charged_attempts") == 0
    assert column(ledger, run, "attempt") == 5


def test_a_run_waits_for_what_it_depends_on(ledger: Ledger) -> None:
    needed = make(ledger)
    dependent = make(ledger, {"kind": "compare"}, depends_on=(needed,))
    assert claim(ledger, dependent) is None
    with ledger.begin() as session:
        assert [due.run_id for due in rings.due_runs(session, ring_again_s=60.0, again=("cpu",))] == [needed]


def test_a_failed_dependency_fails_its_dependents(ledger: Ledger) -> None:
    needed = make(ledger)
    dependent = make(ledger, {"kind": "compare"}, depends_on=(needed,))
    held = claim(ledger, needed)
    assert held is not None
    fail(ledger, held, retryable=False)
    assert column(ledger, dependent, "state") == "FAILED"
    error = column(ledger, dependent, "error")
    assert isinstance(error, dict)
    assert error["code"] == "dependency_failed"


def test_a_rung_run_is_not_rung_again_before_its_time(ledger: Ledger) -> None:
    make(ledger)
    with ledger.begin() as session:
        assert len(rings.due_runs(session, ring_again_s=60.0, again=("cpu",))) == 1
    with ledger.begin() as session:
        assert rings.due_runs(session, ring_again_s=60.0, again=("cpu",)) == []
    with ledger.begin() as session:
        assert len(rings.due_runs(session, ring_again_s=0.0, again=("cpu",))) == 1


def test_dispatchers_share_out_due_runs(ledger: Ledger) -> None:
    made = {make(ledger, {"kind": "trace", "n": str(n)}) for n in range(40)}

    def ring(_: int) -> list[UUID]:
        with ledger.begin() as session:
            return [due.run_id for due in rings.due_runs(session, ring_again_s=60.0, again=(), limit=7)]

    with ThreadPoolExecutor(4) as pool:
        rung = [run for batch in pool.map(ring, range(12)) for run in batch]
    assert len(rung) == len(set(rung))
    assert set(rung) == made


def test_a_live_lease_is_not_reaped_and_a_past_deadline_ends_it(ledger: Ledger) -> None:
    run = make(ledger)
    held = claim(ledger, run)
    assert held is not None
    with ledger.begin() as session:
        assert transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0)) is None
        session.execute(text("UPDATE runs SET deadline_at = now() - interval '1 s'"))
    with ledger.begin() as session:
        assert not transitions.heartbeat(session, run, held.attempt, lease_s=60.0, progress=None).alive
        assert transitions.expire_lease(session, "w") == run
    with ledger.begin() as session:
        assert transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(1, 0.0)) == (run, "FAILED")
    error = column(ledger, run, "error")
    assert isinstance(error, dict)
    assert error["last_code"] == "deadline_exceeded"


def test_a_run_is_late_from_the_end_of_what_it_waited_for(ledger: Ledger) -> None:
    needed = make(ledger)
    dependent = make(ledger, {"kind": "compare"}, depends_on=(needed,))
    held = claim(ledger, needed)
    assert held is not None
    with ledger.begin() as session:
        # The trace took an hour.
        session.execute(text("UPDATE runs SET created_at = now() - interval '1 hour'"))
        transitions.succeed(session, needed, held.attempt, "0" * 64)
    collector = LedgerCollector(ledger)
    [oldest] = [metric for metric in collector.collect() if metric.name == "spinal_oldest_due_run_seconds"]
    assert oldest.samples[0].value < 60.0
    with ledger.begin() as session:
        [due] = rings.due_runs(session, ring_again_s=60.0, again=())
    assert due.run_id == dependent
    assert due.lag_s is not None
    assert due.lag_s < 60.0
    with ledger.begin() as session:
        session.execute(text("TRUNCATE runs CASCADE"))


def test_priority_rings_first(ledger: Ledger) -> None:
    low, high = make(ledger, {"kind": "trace", "n": "low"}), make(ledger, {"kind": "trace", "n": "high"}, priority=5)
    with ledger.begin() as session:
        assert [due.run_id for due in rings.due_runs(session, ring_again_s=60.0, again=(), limit=1)] == [high]
    assert low != high
