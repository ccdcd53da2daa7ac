"""What a parent does for a child that died: it takes back that child's run and judges no other."""

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import transitions
from service.runs.demand import find_or_create_run
from service.settings import Settings
from worker import lease


def test_only_the_dead_childs_run_is_taken_back(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "get_settings", lambda: settings)
    held = {}
    for task in ("dead", "silent"):
        with ledger.begin() as session:
            run = find_or_create_run(session, {"kind": "trace", "n": task}, queue="cpu")
            assert transitions.claim(session, run, worker=lease.worker_name(task), lease_s=60.0, deadline_s=60.0)
            held[task] = run
    with ledger.begin() as session:
        # As after an outage longer than a lease: the other worker has not had the time to beat yet.
        session.execute(text("UPDATE runs SET lease_until = now() - interval '1 s'"))
    lease.hand_back_lost("dead")
    lease.hand_back_lost("unknown")
    with ledger.read() as session:
        states = {row.id: row.state for row in session.execute(text("SELECT id, state FROM runs"))}
    assert states == {held["dead"]: "QUEUED", held["silent"]: "RUNNING"}
