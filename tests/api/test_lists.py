"""A page of audits costs two statements, whatever it holds, and says what each audit says of itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import event, text

from service.app import create_app
from service.database.unit_of_work import Ledger, Reading
from service.http.context import Turn
from service.keys.store import create_key
from service.settings import Settings
from service.traces.store import store_comparison
from spinal.errors import DatabaseUnavailable
from tests.ledger.rows import MINUTE, put_audit, put_run, put_trace
from tests.support.fabricated import changed_pair
from tests.support.served import application

AUDITS = 220
MOST = 2
"""The second for verdicts of the release before."""


@pytest.fixture
def many(ledger: Ledger) -> Iterator[list[UUID]]:
    """Finished audits of pairs, each with its own runs; the newest first."""
    made = changed_pair().compare()
    verdict = made.verdict.model_dump(mode="json")
    ids = []
    with ledger.begin() as session:
        for side in (made.reference, made.candidate):
            put_trace(session, side.digest)
        store_comparison(session, made)
        results = {"reference": made.reference.digest, "candidate": made.candidate.digest, "compare": made.digest}
        for n in range(AUDITS):
            runs = {role: put_run(session, "SUCCEEDED", result_digest=digest) for role, digest in results.items()}
            # Every fourth was settled by the release before.
            document = None if n % 4 == 0 else verdict
            ids.append(
                put_audit(
                    session, "SUCCEEDED", runs, tenant="default", reference="local:sft", verdict="pass",
                    verdict_document=document, comparison=made.digest, reference_trace=made.reference.digest,
                    candidate_trace=made.candidate.digest, created_at=-n * MINUTE,
                    spec={"prompt_set": {"digest": "p"}, "fingerprint": "f"},
                )
            )  # fmt: skip
    yield ids
    # These rows were put in by hand, without attempts and layers, which the check of the ledger would find.
    with ledger.begin() as session:
        session.execute(text("TRUNCATE audits, runs, comparisons, traces CASCADE"))


@contextmanager
def counted(api: TestClient) -> Iterator[list[str]]:
    """Statements that reach the database meanwhile, without those that begin and end transactions."""
    seen: list[str] = []

    def see(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = application(api).state.ledger.engine
    event.listen(engine, "before_cursor_execute", see)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", see)


@pytest.mark.parametrize("limit", [1, 20, 200])
def test_a_page_of_any_size_costs_two_statements(api: TestClient, many: list[UUID], limit: int) -> None:
    with counted(api) as statements:
        page = api.get("/v1/audits", params={"limit": limit}).json()
    assert [item["id"] for item in page["items"]] == [str(audit) for audit in many[:limit]]
    assert all(item["verdict"] == "pass" and item["verdict_reasons"] for item in page["items"])
    assert all(len(item["progress"]["runs"]) == 3 for item in page["items"])
    assert len(statements) <= MOST, statements
    with counted(api) as statements:
        api.get("/v1/audits", params={"limit": limit, "cursor": page["next"]})
    assert len(statements) <= MOST, statements


def test_no_comparison_is_read_for_audits_that_hold_their_verdict(
    api: TestClient, many: list[UUID], ledger: Ledger
) -> None:
    with ledger.begin() as session:
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER ALL"))
        session.execute(
            text('UPDATE audits SET verdict_document = \'{"outcome": "pass", "policy": "p", "reasons": []}\'')
        )
        session.execute(text("ALTER TABLE audits ENABLE TRIGGER ALL"))
    with counted(api) as statements:
        assert len(api.get("/v1/audits", params={"limit": 200}).json()["items"]) == 200
    assert [statement for statement in statements if "comparisons" in statement] == []


def test_an_audit_says_of_itself_what_the_list_says(api: TestClient, many: list[UUID]) -> None:
    for item in api.get("/v1/audits", params={"limit": 8}).json()["items"]:
        with counted(api) as statements:
            assert api.get(f"/v1/audits/{item['id']}").json() == item
        assert len(statements) <= MOST


def test_what_is_long_is_sent_packed_to_those_who_can_read_it(api: TestClient, many: list[UUID]) -> None:
    packed = api.get("/v1/audits", headers={"Accept-Encoding": "gzip"})
    plain = api.get("/v1/audits", headers={"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()
    assert "Accept-Encoding" in packed.headers["vary"]
    short = api.get("/livez", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in short.headers


@pytest.fixture
def keyed(api_settings: Settings, ledger: Ledger) -> Iterator[TestClient]:
    """An API that looks up keys, with one that may read and write."""
    # Whoever is left waiting for a connection is refused after so long; on a busy machine many take long.
    patient = {"db_pool_timeout_s": 60.0}
    required = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p"), **patient})
    with ledger.begin() as session:
        key = create_key(session, tenant="default", scopes=("read", "write"), pepper="p")
    headers = {"Authorization": f"Bearer {key}"}
    with TestClient(create_app(required), raise_server_exceptions=False, headers=headers) as client:
        yield client


def test_a_request_reads_in_one_transaction_and_ends_it(keyed: TestClient, drain: Callable[[], int]) -> None:
    body = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
    engine = application(keyed).state.ledger.engine
    taken: list[int] = []
    event.listen(engine, "checkout", lambda *_: taken.append(engine.pool.checkedout()))
    audit = keyed.post("/v1/audits", json=body).json()
    # Transactions of its own, and never two at a time.
    assert len(taken) > 1
    assert max(taken) == 1
    drain()
    done = keyed.get(audit["links"]["self"]).json()
    addresses = [done["links"][link] for link in ("self", "scores", "report", "candidate_trace", "diff")]
    for address in (*addresses, "/v1/audits", "/v1/traces", "/v1/models", "/v1/prompt-sets"):
        taken.clear()
        assert keyed.get(address).status_code == 200
        assert len(taken) == 1, address
    assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("address", ["/v1/audits", "/v1/models", "/v1/prompt-sets"])
def test_more_requests_than_threads_and_connections_are_all_answered(keyed: TestClient, address: str) -> None:
    """None waits for a connection with the thread in its hand that another with a connection waits for."""

    async def burst() -> list[int]:
        transport = httpx.ASGITransport(app=keyed.app)
        headers = dict(keyed.headers)
        async with httpx.AsyncClient(transport=transport, base_url="http://t", headers=headers, timeout=60.0) as client:
            found: list[int] = []

            async def ask() -> None:
                found.append((await client.get(address)).status_code)

            async with anyio.create_task_group() as group:
                for _ in range(150):
                    group.start_soon(ask)
            return found

    assert keyed.portal is not None
    assert keyed.portal.call(burst) == [200] * 150


def test_nobody_waits_longer_for_his_turn_than_for_a_connection(keyed: TestClient) -> None:
    async def tried() -> None:
        limiter = anyio.CapacityLimiter(1)
        first, second = Turn(limiter, 5.0), Turn(limiter, 0.05)
        await first.take()
        await first.take()
        with pytest.raises(DatabaseUnavailable, match="busy"):
            await second.take()
        second.give_back()
        first.give_back()
        await second.take()
        assert limiter.borrowed_tokens == 1

    assert keyed.portal is not None
    keyed.portal.call(tried)


def test_an_answer_is_whole_when_the_connection_dies_before_the_end_of_its_transaction(
    keyed: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = application(keyed).state.ledger.engine
    end = Reading.end

    def cut_off(reading: Reading) -> None:
        for connection in opened:
            connection.close()
        end(reading)

    opened: list[Any] = []
    event.listen(engine, "checkout", lambda raw, *_: opened.append(raw))
    monkeypatch.setattr(Reading, "end", cut_off)
    assert keyed.get("/v1/audits").json()["items"] == []
    monkeypatch.undo()
    assert keyed.get("/v1/audits").status_code == 200
    assert engine.pool.checkedout() == 0
