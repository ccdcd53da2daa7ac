"""The client's calls for series: what is sent, and how long is waited."""

import json
from typing import Any

import httpx
import pytest

from spinal.client import Client
from spinal.errors import SeriesStepTaken, SeriesStillRunning

SERIES = {"id": "1", "state": "OPEN", "status": "healthy", "members": {"waiting": 0}}


def client(*answers: httpx.Response) -> tuple[Client, list[httpx.Request]]:
    left, seen = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return left.pop(0) if len(left) > 1 else left[0]

    return Client("http://service", transport=httpx.MockTransport(answer)), seen


def told(**changes: Any) -> httpx.Response:
    return httpx.Response(200, json=SERIES | changes)


def test_members_are_appended_a_hundred_at_a_time() -> None:
    made, seen = client(httpx.Response(202, json={"items": [{"step": 1}]}))
    assert len(made.add_members("1", ((step, f"local:{step}") for step in range(250)))) == 3
    sent = [json.loads(request.content)["members"] for request in seen]
    assert [len(members) for members in sent] == [100, 100, 50]
    assert [member["step"] for members in sent for member in members] == list(range(250))


def test_a_series_is_sent_without_what_was_not_given_and_under_a_key() -> None:
    made, seen = client(told())
    made.create_series("local:sft", {2: "local:b", 1: "local:a"}, policy="acme/1")
    assert json.loads(seen[0].content) == {
        "reference": "local:sft", "policy": "acme/1",
        "members": [{"step": 2, "model": "local:b"}, {"step": 1, "model": "local:a"}],
    }  # fmt: skip
    assert seen[0].headers["Idempotency-Key"]


def test_a_wait_ends_with_the_members_or_with_the_series() -> None:
    made, _ = client(told(members={"waiting": 1}), told())
    assert made.wait_series("1", every=0.0)["state"] == "OPEN"
    made, seen = client(told(), told(state="CLOSED", members={"waiting": 1}), told(state="CLOSED"))
    progress: list[Any] = []
    assert made.wait_series("1", closed=True, every=0.0, on_progress=progress.append)["state"] == "CLOSED"
    assert len(seen) == len(progress) == 3


@pytest.mark.parametrize(("closed", "waiting", "says"), [(True, 0, "still open"), (False, 3, "3 members")])
def test_a_wait_that_ends_early_says_what_goes_on(closed: bool, waiting: int, says: str) -> None:
    made, _ = client(told(members={"waiting": waiting}))
    with pytest.raises(SeriesStillRunning, match=says) as caught:
        made.wait_series("1", closed=closed, timeout=0.0)
    assert caught.value.extra == {"series_id": "1", "state": "OPEN"}


def test_a_step_that_is_taken_arrives_as_its_error() -> None:
    made, _ = client(httpx.Response(409, json=SeriesStepTaken("step 1 is a", hint="h", step=1).to_problem()))
    with pytest.raises(SeriesStepTaken) as caught:
        made.add_members("1", {1: "local:b"})
    assert caught.value.extra["step"] == 1
