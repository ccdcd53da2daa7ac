"""Keys at the door of the API: what is refused looks the same, and a use is told later, by nobody's request."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import event

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.http import context
from service.keys import store
from service.settings import Settings
from tests.support.served import application
from tests.support.waiting import until


@pytest.fixture
def keyed(api_settings: Settings) -> Settings:
    return api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})


@pytest.fixture
def api(keyed: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(keyed), raise_server_exceptions=False) as client:
        yield client


def put(ledger: Ledger, **members: Any) -> str:
    with ledger.begin() as session:
        return store.create_key(session, **{"tenant": "t", "scopes": ("read",), "pepper": "p"} | members)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def last_use(ledger: Ledger, key: str) -> Any:
    with ledger.read() as session:
        return next(row.last_used_at for row in store.list_keys(session) if row.id == key.split("_")[1])


def test_an_expired_key_is_refused_as_a_revoked_one_and_one_that_never_was(api: TestClient, ledger: Ledger) -> None:
    with ledger.read() as session:
        now = store.database_time(session)
    expired, revoked = put(ledger, expires_at=now - timedelta(seconds=1)), put(ledger)
    with ledger.begin() as session:
        store.revoke_key(session, revoked.split("_")[1])
    live = put(ledger, expires_at=now + timedelta(hours=1))
    answers = []
    for key in (expired, revoked, "spk_0123456789abcdef_never", live + "x"):
        answer = api.get("/v1/audits", headers=bearer(key))
        answers.append((answer.status_code, answer.json() | {"instance": ""}, answer.headers["WWW-Authenticate"]))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert all(answer == answers[0] for answer in answers)
    assert api.get("/v1/audits", headers=bearer(live)).status_code == 200


def test_both_keys_of_a_rotation_open_the_service_until_the_overlap_ends(api: TestClient, ledger: Ledger) -> None:
    old, other = put(ledger), put(ledger)
    with ledger.begin() as session:
        made = store.rotate_key(session, old.split("_")[1], overlap=timedelta(hours=1), pepper="p")
        ended = store.rotate_key(session, other.split("_")[1], overlap=timedelta(0), pepper="p")
    seen = {key: api.get("/v1/audits", headers=bearer(key)).status_code for key in (old, made.key, other, ended.key)}
    assert list(seen.values()) == [200, 200, 401, 200]


def test_a_request_that_reads_writes_nothing_and_its_use_is_told_beside_it(
    keyed: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "EVERY_S", 0.01)
    key, stranger, refused = put(ledger), put(ledger), put(ledger)
    app, said = create_app(keyed), []
    with TestClient(app, raise_server_exceptions=False) as api:
        event.listen(app.state.ledger.engine, "before_cursor_execute", lambda *told: said.append(told[2]))
        for _ in range(3):
            assert api.get("/v1/audits", headers=bearer(key)).status_code == 200
        assert api.get("/v1/audits", headers=bearer(stranger + "x")).status_code == 401
        # One that lacks a scope has been used, too.
        assert api.post("/v1/models", headers=bearer(refused), json={}).status_code == 403
        until(lambda: last_use(ledger, key) and last_use(ledger, refused), "both uses to be told")
        assert last_use(ledger, stranger) is None
    # A transaction of its own for each: none that a request had open.
    told = [sql for sql in said if "last_used_at = now()" in sql]
    assert 1 <= len(told) <= 4


def test_a_service_that_stops_tells_what_it_has_seen(keyed: Settings, ledger: Ledger) -> None:
    key = put(ledger)
    with TestClient(create_app(keyed), raise_server_exceptions=False) as api:
        assert api.get("/v1/audits", headers=bearer(key)).status_code == 200
        assert last_use(ledger, key) is None
    assert last_use(ledger, key) is not None


def asked_without_a_body(api: TestClient, key: str | None) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a POST whose body never comes."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was asked for")

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"1000000")]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/audits", "raw_path": b"/v1/audits", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip
    assert api.portal is not None
    api.portal.call(application(api), scope, receive, send)
    return sent[0]["status"], {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}


def test_a_body_is_not_read_before_it_is_known_who_sends_it(api: TestClient, ledger: Ledger) -> None:
    reads = put(ledger)
    for key, status in ((None, 401), ("spk_0123456789abcdef_never", 401), ("nonsense", 401), (reads, 403)):
        found, headers = asked_without_a_body(api, key)
        assert found == status
        assert headers["connection"] == "close"
        assert headers["content-type"] == "application/problem+json"


def test_who_sends_a_body_is_looked_up_once(api: TestClient, ledger: Ledger) -> None:
    key, said = put(ledger, scopes=("read", "write")), []
    event.listen(application(api).state.ledger.engine, "before_cursor_execute", lambda *told: said.append(str(told[2])))
    answer = api.post(
        "/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"}, headers=bearer(key)
    )
    assert answer.status_code == 202
    assert sum("FROM api_keys" in statement for statement in said) == 1
