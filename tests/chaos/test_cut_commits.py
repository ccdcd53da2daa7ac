"""Connections cut at COMMIT and workers killed around it: done or not done, never half, never twice."""

import os
import signal
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import make_url

from service.app import create_app
from tests.support.fleet import Fleet
from tests.support.proxy import Proxy
from tests.support.waiting import until

FAILURE, RELEASE = b"ended_at = now(), outcome", b"charged_attempts - 1"
CLAIM, STORE, ACCEPT = b"INSERT INTO run_attempts", b"INSERT INTO traces", b"INSERT INTO audits"
BODY = {"candidate": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy]:
    """Between the worker or the API and the database."""
    port = make_url(fleet.settings.database_url.get_secret_value()).port
    assert port is not None
    with Proxy(port) as made:
        yield made


def through(fleet: Fleet, proxy: Proxy) -> str:
    url = make_url(fleet.settings.database_url.get_secret_value()).set(port=proxy.port)
    return url.render_as_string(hide_password=False)


def start(fleet: Fleet, proxy: Proxy) -> None:
    fleet.start_dispatcher()
    fleet.start_worker(SPINAL_DATABASE_URL=through(fleet, proxy))


@pytest.mark.parametrize("before", [True, False], ids=["not committed", "committed, answer lost"])
@pytest.mark.parametrize("marker", [CLAIM, STORE], ids=["claim", "store"])
def test_a_worker_cut_off_at_commit_goes_on_with_the_truth(
    fleet: Fleet, proxy: Proxy, marker: bytes, before: bool
) -> None:
    proxy.cut_commit(marker, before=before)
    start(fleet, proxy)
    audit = fleet.submit(reference=None)
    fleet.wait_for(audit, "SUCCEEDED")
    assert proxy.cuts == 1
    fleet.ended_once(runs=1, traces=1)
    # One attempt and one measurement: neither a claim nor a result is thrown away for a lost answer.
    assert fleet.attempts() == [(1, "succeeded")]
    assert len(fleet.calls()) == 1
    if marker is STORE:
        # The worker learns of the end a moment after the row shows it.
        until(lambda: "succeeded" in fleet.log("worker"), "the worker to have done")
        assert "waiting for the database" in fleet.log("worker")
        assert ("commit confirmed by reading back" in fleet.log("worker")) == (not before)


@pytest.mark.parametrize("before", [True, False], ids=["not committed", "committed, answer lost"])
def test_a_failure_is_written_with_its_cause_although_the_database_was_lost_meanwhile(
    fleet: Fleet, proxy: Proxy, before: bool
) -> None:
    (fleet.double / "fail").write_text("non_finite_activations")
    proxy.cut_commit(FAILURE, before=before)
    start(fleet, proxy)
    audit = fleet.submit(reference=None)
    fleet.wait_for(audit, "FAILED")
    assert proxy.cuts == 1
    # Its own cause, at once: not a worker that fell silent, three times.
    assert fleet.rows("SELECT error->>'code' AS code FROM audits") == [("non_finite_activations",)]
    assert fleet.attempts() == [(1, "failed")]
    until(lambda: "waiting for the database" in fleet.log("worker"), "the worker to have noticed")


@pytest.mark.parametrize("before", [True, False], ids=["not committed", "committed, answer lost"])
def test_a_release_is_not_charged_although_the_database_was_lost_meanwhile(
    fleet: Fleet, proxy: Proxy, before: bool
) -> None:
    fleet.hold()
    start(fleet, proxy)
    audit = fleet.submit(reference=None)
    fleet.wait_for_call()
    proxy.cut_commit(RELEASE, before=before)
    fleet.children["worker"].send(signal.SIGTERM)
    until(lambda: not fleet.children["worker"].alive(), "the worker to leave", timeout=30.0)
    assert proxy.cuts == 1
    assert fleet.rows("SELECT state, attempt, charged_attempts FROM runs") == [("QUEUED", 1, 0)]
    fleet.go_on()
    fleet.start_worker("next")
    fleet.wait_for(audit, "SUCCEEDED")
    assert fleet.attempts() == [(1, "released"), (2, "succeeded")]


@pytest.mark.parametrize("before", [True, False], ids=["between insert and commit", "right after commit"])
def test_kill_9_around_the_commit_of_a_result(fleet: Fleet, proxy: Proxy, before: bool) -> None:
    def kill() -> None:
        os.kill(fleet.calls()[-1][0], signal.SIGKILL)

    proxy.cut_commit(STORE, before=before, instead=kill)
    start(fleet, proxy)
    audit = fleet.submit(reference=None)
    fleet.wait_for(audit, "SUCCEEDED")
    assert proxy.cuts == 1
    fleet.ended_once(runs=1, traces=1)
    assert fleet.attempts() == ([(1, "lost"), (2, "succeeded")] if before else [(1, "succeeded")])


@pytest.mark.parametrize("before", [True, False], ids=["not committed", "committed, answer lost"])
def test_a_caller_cut_off_at_commit_repeats_the_request_and_has_one_audit(
    fleet: Fleet, proxy: Proxy, before: bool
) -> None:
    settings = fleet.settings.model_copy(update={"database_url": SecretStr(through(fleet, proxy))})
    with TestClient(create_app(settings), raise_server_exceptions=False) as api:
        proxy.cut_commit(ACCEPT, before=before)
        first = api.post("/v1/audits", json=BODY, headers={"Idempotency-Key": "k"})
        assert (first.status_code, first.json()["code"]) == (503, "database_unavailable")
        assert first.headers["Retry-After"]
        assert "Idempotency-Key" in first.json()["hint"]
        assert fleet.rows("SELECT count(*) FROM audits") == [(0 if before else 1,)]
        again = api.post("/v1/audits", json=BODY, headers={"Idempotency-Key": "k"})
        assert again.status_code == 202
    assert [str(row.id) for row in fleet.rows("SELECT id FROM audits")] == [again.json()["id"]]
    fleet.start_dispatcher()
    fleet.start_worker()
    until(lambda: fleet.rows("SELECT state FROM audits") == [("SUCCEEDED",)], "the audit to succeed")
    fleet.ended_once(runs=1, traces=1)
