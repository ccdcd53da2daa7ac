"""What nobody expected: one answer, with the request's id in body, header and log, and nothing of the inside."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio.to_thread
import pytest
import structlog
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

from service.app import create_app
from service.http.middleware import RequestContext
from service.operations import health
from service.settings import Settings
from tests.api.test_hostile_requests import ask
from tests.support.served import application
from tests.support.waiting import until


class PanicError(BaseException):
    """As libraries in Rust raise it: no Exception."""


SECRET = "password=hunter2 in /srv/inside"
RAISED = [RuntimeError, RecursionError, MemoryError, UnicodeEncodeError, ExceptionGroup, PanicError]


def made(kind: type[BaseException]) -> BaseException:
    if kind is UnicodeEncodeError:
        return UnicodeEncodeError("utf-8", SECRET, 0, 1, SECRET)
    return ExceptionGroup(SECRET, [ValueError(SECRET)]) if kind is ExceptionGroup else kind(SECRET)


def broken(api: TestClient, monkeypatch: pytest.MonkeyPatch, where: str, error: BaseException) -> tuple[str, bytes]:
    """(method, path) of a request that meets ``error`` there."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    async def fail_later(*_: Any, **__: Any) -> Any:
        raise error

    match where:
        case "verb":
            monkeypatch.setattr("service.audits.routes.list_audits", fail)
        case "writing":
            monkeypatch.setattr("service.models.verbs.register_model", fail)
            return "POST", b"/v1/models"
        case "dependency":
            monkeypatch.setattr("service.http.context.Asker.read", fail_later)
        case "error handler":
            monkeypatch.setattr("service.http.problems.problem_response", fail)
            return "GET", b"/nowhere"
        case "routing":
            router = application(api).router
            monkeypatch.setattr(type(router), "middleware_stack", fail_later, raising=False)
            monkeypatch.setattr(router, "middleware_stack", fail_later)
        case "middleware":
            monkeypatch.setattr("service.http.middleware.BodyLimit.__call__", fail_later)
    return "GET", b"/v1/audits"


@pytest.fixture
def loud(api_settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[TestClient]:
    with TestClient(create_app(api_settings.model_copy(update={"log_level": "info", "log_format": "json"}))) as client:
        yield client
    structlog.reset_defaults()


@pytest.mark.parametrize("where", ["verb", "writing", "dependency", "error handler", "routing", "middleware"])
@pytest.mark.parametrize("kind", RAISED)
def test_an_unexpected_error_carries_the_request_id(
    loud: TestClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    kind: type[BaseException], where: str,
) -> None:  # fmt: skip
    method, path = broken(loud, monkeypatch, where, made(kind))
    body = b'{"name":"m","reference":"local:sft"}'
    sent = [(b"x-request-id", b"mine-1"), (b"content-type", b"application/json")]
    status, headers, answered = ask(loud, method, path, b"", sent, body)
    problem = json.loads(answered)
    assert (status, headers["content-type"]) == (500, "application/problem+json")
    assert headers["x-request-id"] == "mine-1"
    assert problem["instance"] == "urn:uuid:mine-1"
    assert problem["code"] == "internal_error"
    for inside in ("hunter2", "srv", "Traceback", kind.__name__, "\\n"):
        assert inside not in answered.decode()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    [told] = [line for line in lines if line["event"] == "unhandled error"]
    assert told["request_id"] == "mine-1"
    assert "hunter2" in told["exception"], "the log, and it alone, holds the cause"
    [asked] = [line for line in lines if line["event"] == "request"]
    assert (asked["request_id"], asked["status"]) == ("mine-1", 500)


def test_an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    async def half(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError(SECRET)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
    with pytest.raises(RuntimeError):
        asyncio.run(RequestContext(half)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start"]


@pytest.fixture
def hung(api: TestClient) -> Iterator[Callable[[], int]]:
    """Calls that take every thread of the pool until the test ends; returns how many threads still are free."""
    release, portal = threading.Event(), api.portal
    assert portal is not None

    async def limiter() -> Any:
        return anyio.to_thread.current_default_thread_limiter()

    most = portal.call(limiter)

    async def hang() -> None:
        await anyio.to_thread.run_sync(release.wait)

    for _ in range(int(most.total_tokens)):
        portal.start_task_soon(hang)
    yield lambda: int(most.available_tokens)
    release.set()


def test_the_process_says_that_it_lives_while_every_thread_hangs(
    api: TestClient, hung: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: hung() == 0, "every thread is taken")
    monkeypatch.setattr(health, "READY_WITHIN_S", 0.2)
    for _ in range(3):
        started = time.monotonic()
        assert api.get("/livez").json() == {"status": "ok"}
        # Generous for a busy machine; a thread would never come.
        assert time.monotonic() - started < 5.0
    answer = api.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "thread" in answer.json()["detail"]


def test_the_process_says_that_it_lives_without_a_ledger(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Any:
        raise AssertionError("asked for a ledger")

    monkeypatch.setattr("service.database.unit_of_work.Ledger.begin", gone)
    monkeypatch.setattr("service.database.unit_of_work.Ledger.read", gone)
    monkeypatch.setattr(application(api).state, "ledger", None)
    assert api.get("/livez").status_code == 200
    monkeypatch.undo()


def test_readiness_follows_the_database(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert api.get("/readyz").status_code == 200
    monkeypatch.setattr("service.operations.migrate.current", lambda _: None)
    assert api.get("/readyz").json()["code"] == "not_ready"


def test_a_database_that_hangs_is_not_waited_for(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(health, "READY_WITHIN_S", 0.2)
    monkeypatch.setattr("service.operations.migrate.current", lambda _: release.wait())
    try:
        assert api.get("/readyz").json()["code"] == "not_ready"
    finally:
        release.set()
