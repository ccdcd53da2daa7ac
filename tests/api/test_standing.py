"""What a caller reads of the place of its audit."""

from typing import Any
from uuid import UUID

from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.runs import workers
from service.runs.workers import Presence
from tests.api.test_lists import counted

BODY = {"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64"}
HERE = Presence(UUID(int=1), "celery@a-secret-host", ["cpu"], 2, "cpu", "0.1.0")


def submitted(api: TestClient, **more: Any) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=BODY | more)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def rung(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.execute(text("UPDATE runs SET rung_at = now() WHERE state = 'QUEUED'"))


def test_a_caller_reads_its_place_and_who_takes_its_runs_from_submission_on(api: TestClient, ledger: Ledger) -> None:
    first = submitted(api, profile={"seed": 1})
    assert first["queue"] == {
        "name": "cpu", "workers": "unknown", "ahead": 0, "more": False, "starts_in": None,
        "summary": "nothing before it, no worker of queue 'cpu' has said that it is alive",
    }  # fmt: skip
    rung(ledger)
    second = submitted(api, profile={"seed": 2, "max_tokens": 64})
    with ledger.begin() as session:
        workers.tell(session, HERE)
    read = api.get(f"/v1/audits/{second['id']}")
    assert read.json()["queue"]["ahead"] == 1
    assert (read.json()["queue"]["workers"], read.json()["queue"]["summary"]) == ("alive", "1 before it")
    assert "secret" not in read.text
    # Nobody asks again for what has not changed.
    again = api.get(f"/v1/audits/{second['id']}", headers={"If-None-Match": read.headers["ETag"]})
    assert again.status_code == 304
    ended = api.post(f"/v1/audits/{first['id']}/cancel").json()
    assert ended["queue"] is None
    assert api.get(f"/v1/audits/{second['id']}").json()["queue"]["summary"] == "nothing before it"


def test_a_place_costs_two_statements_and_lists_have_none(api: TestClient) -> None:
    audit = submitted(api)
    with counted(api) as statements:
        assert api.get(f"/v1/audits/{audit['id']}").json()["queue"] is not None
    assert len(statements) <= 3, statements
    with counted(api) as statements:
        [item] = api.get("/v1/audits").json()["items"]
    assert item["queue"] is None
    assert len(statements) <= 2, statements


def test_a_long_poll_looks_for_the_place_when_it_answers_and_not_before(api: TestClient) -> None:
    audit = submitted(api)
    with counted(api) as statements:
        assert api.get(f"/v1/audits/{audit['id']}", params={"wait": 1.5}).json()["queue"]["ahead"] == 0
    places = [statement for statement in statements if "own" in statement and "RECURSIVE" in statement]
    assert len(places) == 1
    assert len(statements) > 3, "it was looked at again meanwhile"


def test_a_run_that_ended_says_that_all_of_it_is_done(api: TestClient, drain: Any) -> None:
    audit = submitted(api)
    drain()
    found = api.get(f"/v1/audits/{audit['id']}").json()
    assert (found["state"], found["queue"]) == ("SUCCEEDED", None)
    for run in found["progress"]["runs"].values():
        assert (run["phase"], run["fraction"]) == ("finished", 1.0)
        assert run["done"] == run["total"] >= 1


def test_a_series_says_where_its_next_member_stands(api: TestClient, drain: Any) -> None:
    body = {"reference": "local:sft", "members": [{"step": 2, "model": "local:dpo-short"}]}
    here = f"/v1/series/{api.post('/v1/series', json=body).json()['id']}"
    assert api.get(here).json()["queue"]["ahead"] == 0
    [item] = api.get("/v1/series").json()["items"]
    assert item["queue"] is None
    drain()
    assert (api.get(here).json()["members"]["measured"], api.get(here).json()["queue"]) == (1, None)
