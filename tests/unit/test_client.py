"""The client against a transport that misbehaves."""

import httpx
import pytest

from spinal.client import Client, error_of
from spinal.errors import AnswerNotUnderstood, DatabaseUnavailable, InternalError, ModelNotFound, ServiceUnreachable

AUDIT = {"id": "1", "state": "QUEUED", "verdict": None, "progress": {"phase": "waiting", "fraction": 0.0}}
PROBLEM = ModelNotFound("no such model", hint="look again").to_problem()


def client(answers: list[httpx.Response | Exception], patience: float = 5.0) -> tuple[Client, list[httpx.Request]]:
    """A client whose requests get these answers, one after the other, and the requests it sent."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return Client("http://service", "spk_a_b", patience=patience, transport=httpx.MockTransport(answer)), seen


def test_a_problem_arrives_as_its_error_class() -> None:
    made, _ = client([httpx.Response(422, json=PROBLEM)])
    with pytest.raises(ModelNotFound, match="no such model") as caught:
        made.submit("local:x")
    assert caught.value.hint == "look again"


def test_an_unknown_code_is_not_lost() -> None:
    error = error_of({"code": "of_a_newer_service", "detail": "d"})
    assert isinstance(error, InternalError)
    assert error.extra["unknown_code"] == "of_a_newer_service"


def test_a_submission_is_sent_again_under_the_same_key() -> None:
    away = httpx.Response(503, json=DatabaseUnavailable("away").to_problem())
    made, seen = client([httpx.ConnectError("refused"), away, httpx.Response(202, json=AUDIT)])
    assert made.submit("local:x") == AUDIT
    assert len({request.headers["Idempotency-Key"] for request in seen}) == 1
    assert len(seen) == 3
    assert seen[0].headers["Authorization"] == "Bearer spk_a_b"


def test_patience_ends() -> None:
    made, _ = client([httpx.ConnectError("refused")], patience=0.0)
    with pytest.raises(ServiceUnreachable, match="ConnectError"):
        made.submit("local:x")
    made, _ = client([httpx.Response(503, json=DatabaseUnavailable("away").to_problem())], patience=0.0)
    with pytest.raises(DatabaseUnavailable):
        made.submit("local:x")


def test_something_else_at_the_address_is_told_apart() -> None:
    made, _ = client([httpx.Response(404, text="<html>")])
    with pytest.raises(AnswerNotUnderstood, match="404 with no problem object"):
        made.submit("local:x")


def test_pages_are_followed_to_the_end() -> None:
    pages: list[httpx.Response | Exception] = [
        httpx.Response(200, json={"items": [1, 2], "next": "c"}),
        httpx.Response(200, json={"items": [3], "next": None}),
    ]
    made, seen = client(pages)
    assert list(made.audits(state="FAILED")) == [1, 2, 3]
    assert seen[1].url.params["cursor"] == "c"
    assert seen[1].url.params["state"] == "FAILED"
