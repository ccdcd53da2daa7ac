"""A database that is killed or restarted under load: clients are told to come back, nothing is lost."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text

from devstack.postgres import PostgresServer
from devstack.processes import as_unprivileged
from service.app import create_app
from service.operations.migrate import upgrade
from service.settings import Settings
from tests.support.fleet import LEASE_S, Fleet
from tests.support.waiting import until

BODY = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A server of this test's own, durable: what was committed must be there after kill -9."""
    with TemporaryDirectory(prefix="spinal-chaos-pg-", ignore_cleanup_errors=True) as temporary:
        folder = as_unprivileged(Path(temporary))
        made = PostgresServer(folder, log=folder / "postgres.log", durable=True)
        made.start()
        yield made
        made.stop()


@pytest.fixture
def database_url(server: PostgresServer) -> str:
    """In this module every fixture that wants a database gets the one that will be killed."""
    upgrade(Settings(database_url=server.url))
    return server.url


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_database_lost_under_load(fleet: Fleet, server: PostgresServer, how: str) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    audits = [fleet.submit(seed) for seed in range(3)]
    fleet.wait_for_call(2)
    with TestClient(create_app(fleet.settings), raise_server_exceptions=False) as api:
        server.stop() if how == "restart" else server.kill()
        for answer in (api.post("/v1/audits", json=BODY), api.get(f"/v1/audits/{audits[0]}"), api.get("/readyz")):
            assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
            assert answer.headers["Retry-After"]
        fleet.go_on()
        server.start()
        until(lambda: api.get("/readyz").status_code == 200, "the service to be ready again")
        accepted = api.post("/v1/audits", json=BODY)
        assert accepted.status_code == 202
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=30.0)
    until(lambda: fleet.rows("SELECT count(*) FROM runs WHERE state <> 'SUCCEEDED'") == [(0,)], "all work to end")
    fleet.ended_once(runs=8, traces=2)


def test_a_run_outlives_a_database_that_is_away_for_longer_than_its_lease(fleet: Fleet, server: PostgresServer) -> None:
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    audit = fleet.submit()
    fleet.wait_for_call(2)
    server.stop()
    fleet.go_on()
    away_until = time.monotonic() + 2 * LEASE_S
    until(
        lambda: fleet.log("worker").count("waiting for the database") >= 2,
        "both results to wait for the database",
    )
    until(lambda: time.monotonic() > away_until, "two leases to pass")
    server.start()
    fleet.wait_for(audit, "SUCCEEDED", timeout=60.0)
    fleet.ended_once(runs=3, traces=2)
    # Nothing was measured twice: the workers kept what they had, and the reaper gave them the time to say so.
    assert len(fleet.calls()) == 3
    assert [outcome for _, outcome in fleet.attempts()] == ["succeeded"] * 3


def test_a_database_that_only_reads_for_a_while_is_told_to_clients_and_waited_for(
    fleet: Fleet, server: PostgresServer
) -> None:
    """As after a failover, until the new primary is promoted."""

    def read_only(yes: bool) -> None:
        with create_engine(server.url, isolation_level="AUTOCOMMIT").connect() as admin:
            admin.execute(text("SET default_transaction_read_only = off"))
            name = admin.execute(text("SELECT current_database()")).scalar_one()
            admin.execute(text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {"on" if yes else "off"}'))
            admin.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spinal'")
            )

    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    read_only(True)
    with TestClient(create_app(fleet.settings), raise_server_exceptions=False) as api:
        answer = api.post("/v1/audits", json=BODY)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["Retry-After"]
    fleet.go_on()
    until(lambda: "waiting for the database" in fleet.log("worker"), "the result to wait")
    read_only(False)
    fleet.wait_for(audit, "SUCCEEDED", timeout=60.0)
    fleet.ended_once(runs=1, traces=1)
    # The worker kept its result, and its heart went on beating.
    assert len(fleet.calls()) == 1
    assert fleet.attempts() == [(1, "succeeded")]
