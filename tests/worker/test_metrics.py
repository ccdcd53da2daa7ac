"""The ledger's gauges, each away from zero once: what was broken shows."""

import contextlib

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import transitions
from service.runs.demand import find_or_create_run
from service.runs.kinds import Attempts
from service.settings import Settings
from spinal.errors import DatabaseUnavailable
from worker.metrics import LedgerCollector


def gauges(ledger: Ledger) -> dict[str, float]:
    """Value by name and labels."""
    collector = LedgerCollector(ledger)
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
        assert found[f"spinal_runs,{state}"] == 0
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
    assert found["spinal_runs,RUNNING"] == 1
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
    assert 100 <= found["spinal_oldest_due_run_seconds"] < 200
    assert found["spinal_expired_leases"] == 0


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


AWAY = "postgresql+psycopg://x:y@127.0.0.1:1/z"
