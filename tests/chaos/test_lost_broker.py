"""A broker that dies, freezes, forgets or repeats: messages are doorbells, so nothing is lost with them."""

import time
from typing import Any
from uuid import uuid4

from fastapi.testclient import TestClient
from kombu import Connection
from pydantic import SecretStr

from service.api.app import create_app
from service.ledger import demand
from service.ledger.tables import RunRecord
from service.ledger.unit_of_work import Ledger
from service.migrate import upgrade
from tests.chaos.fleet import Fleet
from tests.conftest import create_database
from tests.waiting import until


def test_kill_9_of_the_broker_with_queued_audits_loses_none(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    audits = [fleet.submit(seed) for seed in range(20)]
    until(lambda: fleet.rows("SELECT count(*) FROM runs WHERE rung_at IS NOT NULL") == [(2,)], "doorbells to be sent")
    fleet.valkey.kill()
    fleet.valkey.start()
    fleet.start_worker(concurrency=2)
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
    fleet.ended_once(runs=22, traces=2)


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
        # No part of accepting touches the broker: a publish to a frozen one would take its whole timeout.
        assert time.monotonic() - started < 2.0
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


def test_a_dispatcher_started_before_the_migration_waits_for_it(fleet: Fleet, postgres: Any) -> None:
    url = create_database(postgres.url, f"late_{uuid4().hex}")
    late = fleet.settings.model_copy(update={"database_url": SecretStr(url)})
    dispatcher = fleet.start("dispatcher", "-m", "worker.dispatcher", SPINAL_DATABASE_URL=url)
    until(lambda: "database refused" in fleet.log("dispatcher"), "the dispatcher to meet the empty database")
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


def test_three_dispatchers_one_killed(fleet: Fleet) -> None:
    for name in ("one", "two", "three"):
        fleet.start_dispatcher(name)
    audits = [fleet.submit(seed) for seed in range(10)]
    fleet.children["two"].kill()
    fleet.start_worker(concurrency=2)
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=12, traces=2)
