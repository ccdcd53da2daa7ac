"""The ledger's gauges, each away from zero once: what was broken shows."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import transitions, workers
from service.runs.demand import find_or_create_run
from service.runs.kinds import Attempts
from service.settings import Settings
from service.traces.store import StoredCapture, replace_capture
from spinal.errors import DatabaseUnavailable
from tests.ledger.rows import MINUTE, put_attempt, put_run
from tests.ledger.stored import stored_trace
from worker.metrics import LedgerCollector


def gauges(ledger: Ledger) -> dict[str, float]:
    """Value by name and labels."""
    collector = LedgerCollector(ledger, ["cpu"])
    with contextlib.suppress(DatabaseUnavailable):
        collector.inspect()
    return {
        sample.name + "".join(f",{value}" for value in sample.labels.values()): sample.value
        for metric in collector.collect()
        for sample in metric.samples
    }


def test_an_empty_ledger_shows_zeros_and_not_nothing(ledger: Ledger) -> None:
    found = gauges(ledger)
    assert found["spinal_database_up"] == 1
    for state in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"):
        assert found[f"spinal_runs,{state},cpu"] == 0
    assert [value for name, value in found.items() if name.startswith("spinal_invariant_violations")]
    assert not [name for name, value in found.items() if name.startswith("spinal_invariant") and value]


def test_lost_runs_refused_writes_and_broken_invariants_show(ledger: Ledger) -> None:
    with ledger.begin() as session:
        run = find_or_create_run(session, {"kind": "trace", "n": "x"}, queue="cpu")
        held = transitions.claim(session, run, worker="w", lease_s=60.0, deadline_s=60.0)
    assert held is not None
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET lease_until = now() - interval '2 minutes'"))
    found = gauges(ledger)
    assert found["spinal_expired_leases"] == 1
    assert found["spinal_runs,RUNNING,cpu"] == 1
    assert found["spinal_invariant_violations,no lease is expired for more than a minute"] == 1
    with ledger.begin() as session:
        assert transitions.reap_expired(session, attempts_of=lambda _kind: Attempts(3, 0.0)) == (run, "QUEUED")
        for beat in (True, True, False):
            assert transitions.record_refusal(session, run, held.attempt, beat=beat)
        session.execute(text("UPDATE runs SET created_at = now() - interval '1 hour', not_before = now()"))
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET not_before = now() - interval '100 s'"))
    found = gauges(ledger)
    assert found["spinal_zombie_writes_refused_total,heartbeat"] == 2
    assert found["spinal_zombie_writes_refused_total,end"] == 1
    assert found["spinal_attempts_total,trace,lost"] == 1
    assert 100 <= found["spinal_oldest_due_run_seconds,cpu"] < 200
    assert found["spinal_expired_leases"] == 0


def test_captures_that_were_lost_and_measured_again_are_counted_over_all_traces(ledger: Ledger) -> None:
    name = "spinal_captures_measured_again_total"
    assert gauges(ledger)[name] == 0
    with ledger.begin() as session:
        lost = StoredCapture(stored_trace(session, "a"), "file:///second", 1)
        stored_trace(session, "b")
        replace_capture(session, lost, lost=True)
        replace_capture(session, replace(lost, uri="file:///third"), lost=True)
        # Deleted on purpose, and measured again later.
        replace_capture(session, replace(lost, uri="file:///fourth"), lost=False)
    assert gauges(ledger)[name] == 2


def test_a_database_that_is_away_shows_as_that(settings: Settings) -> None:
    gone = Ledger(settings.model_copy(update={"database_url": type(settings.database_url)(AWAY)}))
    try:
        assert gauges(gone) == {"spinal_database_up": 0}
    finally:
        gone.close()


def test_invariants_that_take_too_long_take_no_other_gauge_with_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("service.operations.invariants.INVARIANTS", {"slow": "SELECT pg_sleep(5)"})
        patched.setattr("worker.metrics.INSPECTION_LIMIT_S", 1.0)
        found = gauges(ledger)
    assert found["spinal_database_up"] == 1
    assert not [name for name in found if name.startswith("spinal_invariant")]


def test_every_queue_tells_what_waits_runs_and_ends_in_it_and_who_is_there(ledger: Ledger) -> None:
    there = workers.Presence(UUID(int=1), "celery@host", ["cpu", "gpu"], 3, "cuda", "0")
    with ledger.begin() as session:
        workers.tell(session, there)
        workers.tell(session, replace(there, id=UUID(int=2), queues=["gpu"]))
        put_run(session, queue="gpu")
        put_run(session, queue="gpu", waits=True)
        put_run(session, queue="gpu", not_before=MINUTE)
        put_run(session, "RUNNING", queue="other")
    found = gauges(ledger)
    assert {name: value for name, value in found.items() if name.endswith(("gpu", "other")) and value} == {
        "spinal_runs,QUEUED,gpu": 3, "spinal_due_runs,gpu": 1, "spinal_workers_alive,gpu": 2,
        "spinal_worker_children,gpu": 6, "spinal_runs,RUNNING,other": 1, "spinal_running_runs,other": 1,
        "spinal_oldest_due_run_seconds,gpu": found["spinal_oldest_due_run_seconds,gpu"],
    }  # fmt: skip
    assert (found["spinal_workers_alive,cpu"], found["spinal_workers_alive,other"]) == (1, 0)
    with ledger.begin() as session:
        session.execute(text("TRUNCATE runs, workers CASCADE"))


def test_what_has_ended_is_counted_once_and_in_whole_whenever_it_is_looked_at(ledger: Ledger) -> None:
    collector = LedgerCollector(ledger, ["cpu"])

    def told() -> tuple[float, float, float]:
        found = {
            (sample.name, *sample.labels.values()): sample.value
            for metric in collector.collect()
            for sample in metric.samples
        }
        attempts = ("trace", "succeeded")
        return (
            found["spinal_runs", "SUCCEEDED", "cpu"],
            found[("spinal_attempts_total", *attempts)],
            found[("spinal_attempt_seconds_sum", *attempts)],
        )

    def end(ago_s: float) -> None:
        at = timedelta(seconds=-ago_s)
        with ledger.begin() as session:
            run = put_run(session, "SUCCEEDED", finished_at=at)
            put_attempt(session, run, 1, "succeeded", started_at=at - timedelta(seconds=10), ended_at=at)

    assert not [metric for metric in collector.collect() if metric.name == "spinal_attempts"], "not counted yet"
    end(5000.0)
    end(700.0)
    collector.inspect()
    for n, ago_s in enumerate((500.0, 0.0, 3.0), start=3):
        # As a commit that took long: what ended after it has been counted by now.
        end(ago_s)
        collector.inspect()
        expected = (n, n, pytest.approx(10.0 * n))
        assert told() == expected
        assert told() == expected, "a scrape counts nothing twice"
    assert collector._ended is not None
    assert collector._ended.runs["SUCCEEDED", "cpu"] == 2, "what is recent is read again: more of it may appear"
    with ledger.begin() as session:
        session.execute(text("TRUNCATE runs CASCADE"))


AWAY = "postgresql+psycopg://x:y@127.0.0.1:1/z"
