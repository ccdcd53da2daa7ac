"""Retention on a schedule: one dispatcher at a time, some rows in a transaction, and again after whatever it met."""

import threading
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.operations import chores, retained, retention
from service.operations.retention import CHORE, take_retention_turn
from service.settings import Settings
from tests.ledger.rows import put, put_audit, put_run, put_trace
from tests.support.waiting import until
from worker.dispatcher import Dispatcher

OLD, YOUNG = 40, 10


def keep(ledger: Ledger, days: int, number: int) -> None:
    """Keys of audits that ended so long ago."""
    with ledger.begin() as session:
        run = put_run(session, "CANCELLED")
        for index in range(number):
            audit = put_audit(session, "CANCELLED", runs={"candidate": run})
            put(
                session,
                "idempotency_keys",
                tenant="t",
                key=f"{days} {index}",
                body_digest="b",
                audit_id=audit,
                status=202,
            )
        session.execute(
            text("UPDATE idempotency_keys SET created_at = now() - make_interval(days => :d) WHERE key LIKE :key"),
            {"d": days, "key": f"{days} %"},
        )


def kept(ledger: Ledger) -> dict[str, int]:
    with ledger.read() as session:
        rows = session.execute(
            text("SELECT split_part(key, ' ', 1) AS days, count(*) AS n FROM idempotency_keys GROUP BY 1")
        )
        return {row.days: row.n for row in rows}


def make_due(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.execute(text("UPDATE chores SET due_at = now()"))


def turn(ledger: Ledger, settings: Settings, stopped: Callable[[], bool] = lambda: False) -> dict[str, int] | None:
    return take_retention_turn(ledger, settings, uuid4(), stopped=stopped)


def test_a_dispatcher_deletes_what_is_due_and_goes_on_after_a_failure(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(ledger, OLD, 5)
    keep(ledger, YOUNG, 3)
    failures: list[int] = []

    def away(*_given: object, **_named: object) -> int:
        failures.append(1)
        raise OSError("the first time")

    monkeypatch.setattr(retained, "MOST", 2)
    monkeypatch.setattr(retention, "delete_idempotency_keys", away)
    running = Dispatcher(settings.model_copy(update={"retention_every_s": 0.1}))
    thread = threading.Thread(target=running._retention_loop)
    thread.start()
    try:
        until(lambda: len(failures) > 1, "it to be tried again")
        assert kept(ledger) == {str(OLD): 5, str(YOUNG): 3}
        monkeypatch.setattr(retention, "delete_idempotency_keys", retained.delete_idempotency_keys)
        until(lambda: kept(ledger) == {str(YOUNG): 3}, "the old keys to go")
    finally:
        running.stop()
        thread.join(30)
        running.close()


def test_one_does_it_at_a_time_and_another_takes_over_from_one_that_died(ledger: Ledger, settings: Settings) -> None:
    keep(ledger, OLD, 5)
    holders: list[UUID] = [uuid4() for _ in range(8)]
    taken: list[UUID] = []
    start = threading.Barrier(len(holders))

    def take(holder: UUID) -> None:
        start.wait(30)
        with ledger.begin() as session:
            if chores.take_turn(session, CHORE, holder, lease_s=300.0):
                taken.append(holder)

    threads = [threading.Thread(target=take, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(taken) == 1
    # It holds the turn, and says nothing more.
    assert turn(ledger, settings) is None
    assert kept(ledger) == {str(OLD): 5}
    make_due(ledger)
    gone = turn(ledger, settings)
    assert gone is not None
    assert gone["idempotency_keys"] == 5
    with ledger.begin() as session:
        # Who was thought to be dead, and is back, has lost it.
        assert not chores.keep_turn(session, CHORE, taken[0], lease_s=300.0)
        assert not chores.end_turn(session, CHORE, taken[0], again_in_s=0.0)
    # Done, and not due again yet.
    keep(ledger, OLD, 1)
    assert turn(ledger, settings) is None


def test_it_ends_where_it_is_told_and_where_it_has_lost_its_turn(
    ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retained, "MOST", 1)
    keep(ledger, OLD, 5)
    stop = chain([False, False], repeat(True))
    assert turn(ledger, settings, stopped=lambda: next(stop)) is not None
    assert kept(ledger) == {str(OLD): 3}
    make_due(ledger)

    def lose(*given: object, **named: object) -> int:
        number = retained.delete_idempotency_keys(*given, **named)  # type: ignore[arg-type]  # as they were given
        with ledger.begin() as session:
            session.execute(text("UPDATE chores SET held_by = :other"), {"other": uuid4()})
        return number

    monkeypatch.setattr(retention, "delete_idempotency_keys", lose)
    assert turn(ledger, settings) is not None
    assert kept(ledger) == {str(OLD): 2}


def test_captures_are_kept_unless_it_is_said_for_how_long(ledger: Ledger, settings: Settings) -> None:
    folder = Path(settings.artifact_url.removeprefix("file://")) / "captures"
    folder.mkdir(parents=True)
    with ledger.begin() as session:
        for name, days in (("old", OLD), ("young", YOUNG)):
            (folder / name).write_bytes(b"capture")
            uri = f"captures/{name}"
            put_trace(session, name, n_layers=0, capture_uri=uri, capture_bytes=7)
            for policy in ("last", "all"):
                put(
                    session, "trace_layers", trace_digest=name, layer=0, policy=policy, depth=0.0, entropy=1.0,
                    detail="{}",
                )  # fmt: skip
            session.execute(
                text("UPDATE traces SET created_at = now() - make_interval(days => :d) WHERE digest = :name"),
                {"d": days, "name": name},
            )
    assert turn(ledger, settings) == {
        "captures": 0,
        "bytes": 0,
        "files_of_no_trace": 0,
        "idempotency_keys": 0,
        "deliveries": 0,
    }
    make_due(ledger)
    said = turn(ledger, settings.model_copy(update={"retain_captures_days": 30.0}))
    assert said == {"captures": 1, "bytes": 7, "files_of_no_trace": 0, "idempotency_keys": 0, "deliveries": 0}
    assert [file.name for file in folder.iterdir()] == ["young"]
    with ledger.begin() as session:
        # No documents, and none to be checked.
        for table in ("trace_layers", "traces"):
            session.execute(text(f"DELETE FROM {table}"))
