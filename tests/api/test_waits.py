"""Requests that wait are told of the end, ask for nothing meanwhile, and are forgotten when their client goes."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, text

from service.app import create_app
from service.audits import verbs
from service.database.unit_of_work import Ledger
from service.http.waits import Waits
from service.settings import Settings
from tests.support.served import application
from tests.support.waiting import until, within

NEVER_S = 3600.0
LISTENS = """datname = current_database() AND query IN ('LISTEN "spinal_ended"', 'SELECT 1')
  AND pid <> pg_backend_pid()"""
WELL_BEFORE_S = 45.0
"""Before the end of the wait: whoever is answered by then was woken."""


@contextmanager
def service(settings: Settings, **changed: Any) -> Iterator[TestClient]:
    with TestClient(create_app(settings.model_copy(update=changed)), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def told(api_settings: Settings) -> Iterator[TestClient]:
    """A service that hears of an end, and never looks."""
    with service(api_settings, wait_sweep_s=NEVER_S) as client:
        listening(client)
        yield client


def listening(client: TestClient) -> None:
    with application(client).state.ledger.read() as session:
        query = text(f"SELECT 1 FROM pg_stat_activity WHERE {LISTENS}")
        until(lambda: session.execute(query).first(), "the listener")


def waits_of(client: TestClient) -> Waits:
    waits: Waits = application(client).state.waits
    return waits


def audit(api: TestClient) -> str:
    answer = api.post("/v1/audits", json={"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64"})
    assert answer.status_code == 202
    return str(answer.json()["id"])


@contextmanager
def waiting(api: TestClient, *paths: str) -> Iterator[list[Any]]:
    """Answers of requests that all wait when the block begins."""
    before = len(waits_of(api))
    with ThreadPoolExecutor(len(paths)) as pool:
        asked = [pool.submit(api.get, path, params={"wait": 60}) for path in paths]
        until(lambda: len(waits_of(api)) == before + len(paths), "the requests to wait")
        yield asked


def test_whoever_waits_is_woken_by_the_end_alone_and_reads_nothing_before(told: TestClient, ledger: Ledger) -> None:
    ended, other = audit(told), audit(told)
    said: list[str] = []
    with waiting(told, f"/v1/audits/{ended}", f"/v1/audits/{ended}") as asked, waiting(told, f"/v1/audits/{other}"):

        def listen(*given: Any) -> None:
            said.append(given[2])

        event.listen(application(told).state.ledger.engine, "before_cursor_execute", listen)
        # Whoever asked again and again would never be quiet.
        until(lambda: is_quiet(said), "the requests to ask nothing any more")
        began = time.monotonic()
        # In another connection, as a worker's.
        cancel(ledger, ended)
        assert [each.result(WELL_BEFORE_S).json()["state"] for each in asked] == ["CANCELLED"] * 2
        assert time.monotonic() - began < WELL_BEFORE_S
        assert len(waits_of(told)) == 1
        cancel(ledger, other)
    assert len(waits_of(told)) == 0
    assert not waits_of(told).ids


def is_quiet(said: list[str]) -> bool:
    before = len(said)
    return not within(lambda: len(said) != before, 1.0)


def cancel(ledger: Ledger, audit: str) -> None:
    from service.audits.store import cancel_audit

    with ledger.begin() as session:
        assert cancel_audit(session, "default", UUID(audit))


def test_a_series_is_waited_for_until_its_last_member_ends(told: TestClient, drain: Callable[[], int]) -> None:
    body = {"reference": "local:sft", "prompt_set": "hh-harmless-64",
            "members": [{"step": 1, "model": "local:dpo-short"}]}  # fmt: skip
    series = told.post("/v1/series", json=body).json()["id"]
    with waiting(told, f"/v1/series/{series}") as asked:
        drain()
        answer = asked[0].result(WELL_BEFORE_S)
    assert answer.status_code == 200
    assert "Retry-After" not in answer.headers
    assert len(waits_of(told)) == 0


def end_untold(ledger: Ledger, audit: str) -> None:
    """As a process of the former release: nobody is told."""
    with ledger.begin() as session:
        session.execute(
            text("UPDATE audits SET state = 'CANCELLED', finished_at = now() WHERE id = :id"), {"id": audit}
        )
        session.execute(text("UPDATE runs SET cancel_requested = true, state = 'CANCELLED', finished_at = now()"))


def test_an_end_that_nobody_told_of_is_found(api_settings: Settings, ledger: Ledger) -> None:
    with service(api_settings, wait_sweep_s=0.2) as api:
        subject = audit(api)
        with waiting(api, f"/v1/audits/{subject}") as asked:
            end_untold(ledger, subject)
            assert asked[0].result(WELL_BEFORE_S).json()["state"] == "CANCELLED"


def test_what_ended_while_the_listener_was_away_is_found_when_it_is_back(told: TestClient, ledger: Ledger) -> None:
    subject = audit(told)
    with waiting(told, f"/v1/audits/{subject}") as asked:
        end_untold(ledger, subject)
        with ledger.begin() as session:
            lost = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {LISTENS}"
            assert session.execute(text(lost)).all()
        assert asked[0].result(WELL_BEFORE_S).json()["state"] == "CANCELLED"


def test_above_the_bound_nobody_waits(api_settings: Settings, ledger: Ledger) -> None:
    with service(api_settings, max_waiters=1) as api:
        subject = audit(api)
        with waiting(api, f"/v1/audits/{subject}"):
            answer = api.get(f"/v1/audits/{subject}", params={"wait": 60})
            assert (answer.status_code, answer.json()["state"]) == (200, "QUEUED")
            assert "Retry-After" in answer.headers
            cancel(ledger, subject)


def test_where_it_stands_is_worked_out_for_an_answer_alone(
    api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out: list[UUID] = []
    find = verbs.find_standing

    def see(session: Any, audit_id: UUID) -> Any:
        worked_out.append(audit_id)
        return find(session, audit_id)

    with service(api_settings) as api:
        subject = audit(api)
        assert api.portal is not None
        monkeypatch.setattr(verbs, "find_standing", see)
        with waiting(api, *[f"/v1/audits/{subject}"] * 4) as asked:
            api.portal.call(waits_of(api).wake, [UUID(subject)])
            assert worked_out == []
            api.portal.call(waits_of(api).end)
            assert all(each.result(WELL_BEFORE_S).json()["queue"] for each in asked)
        assert worked_out == [UUID(subject)] * 4


def test_a_service_that_stops_answers_those_who_wait(api_settings: Settings) -> None:
    with service(api_settings) as api:
        subject = audit(api)
        with waiting(api, f"/v1/audits/{subject}") as asked:
            assert api.portal is not None
            api.portal.call(waits_of(api).end)
            assert asked[0].result(WELL_BEFORE_S).json()["state"] == "QUEUED"


def test_a_client_that_goes_away_is_forgotten(told: TestClient) -> None:
    path, waits = f"/v1/audits/{audit(told)}", waits_of(told)
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"wait=60", "root_path": "", "headers": [],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip

    async def come_and_go() -> None:
        gone = asyncio.Event()
        said = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if said:
                return said.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(_message: Any) -> None:
            pass

        request = asyncio.create_task(application(told)(scope, receive, send))
        while not len(waits):
            assert not request.done()
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(request, WELL_BEFORE_S)

    assert told.portal is not None
    told.portal.call(come_and_go)
    assert len(waits) == 0
    assert not waits.ids
