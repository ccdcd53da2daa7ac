"""What the dispatcher's reaper sees to first."""

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.runs import transitions
from service.runs.demand import find_or_create_run
from service.settings import Settings
from worker import dispatcher


def refused(session: Session) -> None:
    raise RuntimeError("a comparison that cannot be judged")


def test_silent_workers_are_seen_to_whatever_judging_meets(
    ledger: Ledger, api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "settle_overlooked", refused)
    with ledger.begin() as session:
        run = find_or_create_run(session, {"kind": "trace", "n": "x"}, queue="cpu")
        assert transitions.claim(session, run, worker="w", lease_s=0.0, deadline_s=60.0)
    reaping = dispatcher.Dispatcher(api_settings)
    with pytest.raises(RuntimeError, match="judged"):
        reaping.reap()
    reaping.close()
    with ledger.read() as session:
        assert session.execute(text("SELECT state FROM runs WHERE id = :id"), {"id": run}).scalar_one() == "QUEUED"
