"""Things that neither work nor fail: half-open connections, exhausted pools, clocks that lie, long absences."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from kombu import Connection
from sqlalchemy import exc, make_url, text

from service.app import create_app
from tests.chaos.test_lost_broker import queue_length
from tests.conftest import ROOT
from tests.support.fleet import LEASE_S, PATIENT_LEASE_S, Fleet
from tests.support.proxy import Proxy
from tests.support.waiting import until

LONGEST_BROKER_TIMEOUT_S = 10.0
BODY = {"candidate": "local:sft", "prompt_set": "hh-harmless-64"}


def test_a_half_open_broker_connection_is_given_up_and_made_again(fleet: Fleet) -> None:
    with Proxy(fleet.valkey.port) as proxy:
        parts = urlsplit(fleet.valkey.url)
        through = parts._replace(netloc=parts.netloc.replace(str(fleet.valkey.port), str(proxy.port))).geturl()
        fleet.environment["SPINAL_BROKER_URL"] = through
        fleet.start_dispatcher()
        fleet.start_worker(concurrency=2)
        fleet.wait_for(fleet.submit(), "SUCCEEDED")
        proxy.half_open()
        audits = [fleet.submit(seed) for seed in (1, 2, 3)]
        for audit in audits:
            fleet.wait_for(audit, "SUCCEEDED", timeout=70.0)
    fleet.ended_once(runs=6, traces=2)


def test_a_broker_frozen_past_every_timeout_delays_and_loses_nothing(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    fleet.wait_for(fleet.submit(), "SUCCEEDED")
    fleet.valkey.freeze()
    audits = [fleet.submit(seed) for seed in (1, 2, 3)]
    frozen_until = time.monotonic() + LONGEST_BROKER_TIMEOUT_S + 2.0
    until(lambda: time.monotonic() > frozen_until, "every timeout to pass")
    assert "broker unavailable" in fleet.log("dispatcher")
    fleet.valkey.thaw()
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=70.0)
    fleet.ended_once(runs=6, traces=2)


def test_without_workers_doorbells_do_not_pile_up_and_lost_ones_are_rung_again(fleet: Fleet) -> None:
    # Longer than one dispatcher takes from stamping a run to ringing it, or the other rings it, too.
    fleet.environment["SPINAL_RING_AGAIN_S"] = "1.5"
    for seed in range(6):
        fleet.submit(seed, reference=None, prompt_set=f"hh-harmless-{(64, 128)[seed % 2]}")
    fleet.start_dispatcher("one", SPINAL_LOG_LEVEL="debug")
    fleet.start_dispatcher("two")
    until(lambda: queue_length(fleet) == 2, "both runs to be rung")
    rung = fleet.rows("SELECT rung_at FROM runs ORDER BY id")
    allowed = time.monotonic() + 1.5
    until(lambda: time.monotonic() > allowed, "ringing again to be allowed")
    looks = fleet.looks("one") + 5
    until(lambda: fleet.looks("one") >= looks, "the dispatcher to look five times more")
    assert queue_length(fleet) == 2
    assert fleet.rows("SELECT rung_at FROM runs ORDER BY id") == rung
    with Connection(fleet.valkey.url) as connection:
        channel: Any = connection.channel()
        channel._purge("cpu")
    until(lambda: queue_length(fleet) >= 2, "lost doorbells to be rung again")


def test_a_database_that_takes_everything_and_answers_nothing_is_given_up(fleet: Fleet) -> None:
    """Neither the server's own limits nor the kernel's end such a connection: only a limit on this side does."""
    url = make_url(fleet.settings.database_url.get_secret_value())
    assert url.port is not None
    fleet.hold()
    fleet.start_dispatcher()
    with Proxy(url.port) as proxy:
        through = url.set(port=proxy.port).render_as_string(hide_password=False)
        fleet.start_worker(
            SPINAL_DATABASE_URL=through, SPINAL_DB_STATEMENT_TIMEOUT_S="1", SPINAL_LEASE_S=str(PATIENT_LEASE_S)
        )
        audit = fleet.submit(reference=None)
        fleet.wait_for_call()
        proxy.half_open()
        [(before,)] = fleet.rows("SELECT lease_until FROM runs")
        until(lambda: fleet.rows("SELECT lease_until FROM runs")[0][0] > before, "a heartbeat on a new connection")
        fleet.go_on()
        fleet.wait_for(audit, "SUCCEEDED", timeout=60.0)
        fleet.ended_once(runs=1, traces=1)
        assert fleet.attempts() == [(1, "succeeded")]
        fleet.hold()
        fleet.submit(reference=None, max_tokens=8)
        fleet.wait_for_call(len(fleet.calls()) + 1)
        proxy.half_open()
        fleet.children["worker"].send(signal.SIGTERM)
        until(lambda: not fleet.children["worker"].alive(), "the worker to leave all the same", timeout=40.0)
    fleet.go_on()
    fleet.start_worker("next")
    until(lambda: fleet.rows("SELECT count(*) FROM audits WHERE state = 'SUCCEEDED'") == [(2,)], "the other audit")


def test_an_exhausted_pool_answers_503_and_recovers(fleet: Fleet) -> None:
    settings = fleet.settings.model_copy(update={"db_pool_size": 2, "db_pool_timeout_s": 0.3})
    app = create_app(settings)
    with TestClient(app, raise_server_exceptions=False) as api:
        held = [app.state.ledger.engine.connect() for _ in range(2)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: api.post("/v1/audits", json=BODY), range(8)))
        assert {answer.status_code for answer in answers} == {503}
        # Those who would look at checkpoints wait for half of the connections at most.
        assert {answer.json()["code"] for answer in answers} <= {"database_unavailable", "not_ready"}
        assert all(answer.headers["Retry-After"] for answer in answers)
        assert fleet.rows("SELECT count(*) FROM audits") == [(0,)]
        for connection in held:
            connection.close()

        def accepted(number: int) -> bool:
            return api.post("/v1/audits", json=BODY, headers={"Idempotency-Key": f"{number}"}).status_code == 202

        with ThreadPoolExecutor(8) as pool:
            # Eight at once still share two connections: who is told to come back does so.
            list(pool.map(lambda number: until(lambda: accepted(number), "202"), range(8)))
    assert fleet.rows("SELECT count(*) FROM audits") == [(8,)]
    assert fleet.rows("SELECT count(*) FROM runs") == [(1,)]


def test_clocks_that_are_an_hour_off_change_nothing(fleet: Fleet) -> None:
    fleet.hold()
    path = f"{ROOT / 'tests' / 'support' / 'skewed'}:{ROOT}"
    fleet.start_dispatcher("behind", PYTHONPATH=path, SPINAL_TEST_CLOCK_OFFSET_S="-3600")
    fleet.start_worker("ahead", concurrency=2, PYTHONPATH=path, SPINAL_TEST_CLOCK_OFFSET_S="3600")
    audit = fleet.submit()
    fleet.wait_for_call(2)
    [(database_now,)] = fleet.rows("SELECT now()")
    held_until = time.monotonic() + 2 * LEASE_S
    until(lambda: time.monotonic() > held_until, "two leases to pass")
    fleet.go_on()
    fleet.wait_for(audit, "SUCCEEDED")
    fleet.ended_once(runs=3, traces=2)
    assert [outcome for _, outcome in fleet.attempts()] == ["succeeded"] * 3
    assert fleet.rows(
        "SELECT count(*) FROM runs WHERE finished_at > now() OR finished_at < :then", then=database_now
    ) == [(0,)]
    # The skew was there.
    assert "clock shifted by 3600" in fleet.log("ahead")
    assert "clock shifted by -3600" in fleet.log("behind")


def test_terminal_rows_refuse_every_write_even_by_hand(fleet: Fleet) -> None:
    fleet.start_dispatcher()
    fleet.start_worker()
    fleet.wait_for(fleet.submit(), "SUCCEEDED")
    for statement in (
        "UPDATE runs SET state = 'QUEUED', result_digest = NULL, finished_at = NULL",
        "DELETE FROM audits",
        "UPDATE comparisons SET document = '{}'",
        "UPDATE trace_layers SET contraction = 0",
    ):
        with (
            fleet.ledger.engine.connect() as connection,
            pytest.raises(exc.DBAPIError, match=r"the row is final|violates"),
        ):
            connection.execute(text(statement))
