"""A broker that dies, freezes, forgets or repeats: messages are doorbells, so nothing is lost with them."""

import signal
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from kombu import Connection
from pydantic import SecretStr
from sqlalchemy import make_url

from service.app import create_app
from service.database.tables import RunRecord
from service.database.unit_of_work import Ledger
from service.operations.migrate import upgrade
from service.runs import demand
from tests.conftest import create_database
from tests.support.fleet import Fleet
from tests.support.proxy import Proxy
from tests.support.waiting import until

QUEUED = 500


def queue_length(fleet: Fleet) -> int:
    with Connection(fleet.valkey.url) as connection:
        channel: Any = connection.channel()
        return int(channel._size("cpu"))


def test_kill_9_of_the_broker_with_500_queued_loses_none(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    for number in range(QUEUED):
        fleet.submit(reference=None, max_tokens=8 + number)
    until(lambda: queue_length(fleet) == QUEUED, "a doorbell for every run", timeout=60.0)
    # Not while the broker starts: what the dispatcher rings again would hide whether anything was lost.
    fleet.children["dispatcher"].send(signal.SIGSTOP)
    fleet.valkey.kill()
    fleet.valkey.start()
    assert queue_length(fleet) == 0
    fleet.children["dispatcher"].send(signal.SIGCONT)
    fleet.start_worker(concurrency=2)
    open_audits = "SELECT count(*) FROM audits WHERE state <> 'SUCCEEDED'"
    until(lambda: fleet.rows(open_audits) == [(0,)], "every audit to succeed", timeout=240.0)
    fleet.ended_once(runs=QUEUED, traces=QUEUED)
    assert fleet.rows("SELECT count(*) FROM run_attempts") == [(QUEUED,)]


def test_a_broker_killed_under_a_running_worker(fleet: Fleet) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    audits = [fleet.submit(seed) for seed in range(3)]
    fleet.wait_for_call(2)
    fleet.valkey.kill()
    fleet.go_on()
    until(lambda: fleet.rows("SELECT count(*) FROM traces") == [(2,)], "work to go on without a broker")
    fleet.valkey.start()
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
    fleet.ended_once(runs=5, traces=2)


def test_audits_are_accepted_while_the_broker_is_frozen(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    fleet.valkey.freeze()
    settings = fleet.settings.model_copy(update={"log_level": "error"})
    with TestClient(create_app(settings)) as api:
        started = time.monotonic()
        answer = api.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"})
        assert answer.status_code == 202
        # No part of accepting touches the broker: a publish to a frozen one would not end at all (the benchmark of
        # submitting has the milliseconds).
        assert time.monotonic() - started < 10.0
        assert api.get("/readyz").status_code == 200
    fleet.valkey.thaw()
    fleet.start_worker()
    until(lambda: fleet.rows("SELECT state FROM audits") == [("SUCCEEDED",)], "the audit to succeed", timeout=60.0)


def test_doubled_reordered_and_unknown_doorbells_do_no_harm(fleet: Fleet) -> None:
    from celery import Celery

    audit = fleet.submit()
    [*ids] = [str(row[0]) for row in fleet.rows("SELECT id FROM runs ORDER BY created_at DESC")]
    ringer = Celery("ringer", broker=fleet.valkey.url)
    with Connection(fleet.valkey.url) as connection:
        for run_id in [str(uuid4()), "no uuid", *ids, *ids, *ids]:
            ringer.send_task("spinal.run", args=[run_id], queue="cpu", connection=connection, ignore_result=True)
    fleet.start_worker(concurrency=2)
    fleet.start_dispatcher()
    fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=3, traces=2)


@pytest.fixture
def not_migrated(postgres: Any) -> Iterator[str]:
    """URL of an empty database."""
    with create_database(postgres.url, f"late_{uuid4().hex}") as url:
        yield url


def test_a_dispatcher_started_before_the_migration_waits_for_it(not_migrated: str, fleet: Fleet) -> None:
    late = fleet.settings.model_copy(update={"database_url": SecretStr(not_migrated)})
    dispatcher = fleet.start("dispatcher", "-m", "worker.dispatcher", SPINAL_DATABASE_URL=not_migrated)
    until(lambda: "database is not migrated" in fleet.log("dispatcher"), "the dispatcher to meet the empty database")
    upgrade(late)
    ledger = Ledger(late)
    try:
        with ledger.begin() as session:
            run = demand.find_or_create_run(session, {"kind": "trace"}, queue="cpu")

        def rung() -> bool:
            with ledger.read() as session:
                return session.get_one(RunRecord, run).rung_at is not None

        until(rung, "the dispatcher to ring")
    finally:
        ledger.close()
    assert dispatcher.alive()


def test_three_dispatchers_one_killed_in_the_middle_of_a_batch(fleet: Fleet) -> None:
    """It dies between stamping its batch and sending it: a hundred runs look rung, and nobody was."""
    audits = [fleet.submit(reference=None, max_tokens=8 + number) for number in range(120)]
    url = make_url(fleet.settings.database_url.get_secret_value())
    assert url.port is not None
    with Proxy(url.port) as proxy:
        proxy.cut_commit(b"SET rung_at = now()", before=False, instead=lambda: fleet.children["one"].process.kill())
        through = url.set(port=proxy.port).render_as_string(hide_password=False)
        fleet.start_dispatcher("one", SPINAL_DATABASE_URL=through)
        until(lambda: not fleet.children["one"].alive(), "the first dispatcher to die")
        assert proxy.cuts == 1
        assert fleet.rows("SELECT count(*) FROM runs WHERE rung_at IS NOT NULL") == [(100,)]
        assert queue_length(fleet) == 0
        for name in ("two", "three"):
            fleet.start_dispatcher(name)
        fleet.start_worker(concurrency=2)
        for audit in audits:
            fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
    fleet.ended_once(runs=120, traces=120)
