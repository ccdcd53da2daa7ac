"""A series whose worker and API are killed while it goes on: every member is one audit that ends once, and the document
knows all of them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.processes import HOST, Child, free_port
from spinal.client import Client
from spinal.documents.series import Series
from tests.api.conftest import clone
from tests.support.fleet import Fleet
from tests.support.waiting import until

STEPS = (100, 200, 300, 400, 500, 600)
MODELS = {step: f"local:run/checkpoint-{step}" for step in STEPS}
SHORT = {"bootstrap_draws": 200}
Served = tuple[Client, Callable[[], Child]]


@pytest.fixture
def served(fleet: Fleet, tmp_path: Path) -> Iterator[Served]:
    """A client, and what starts the API that it talks to, also after that was killed."""
    root = tmp_path / "models"
    (root / "run").mkdir(parents=True)
    clone("sft", root / "sft")
    for step in STEPS:
        content = f'{{"max_length": {step}}}'
        clone("dpo-short", root / "run" / f"checkpoint-{step}", generation_config__json=content)
    fleet.environment["SPINAL_MODEL_ROOTS"] = str(root)
    fleet.environment["SPINAL_AUTH"] = "disabled"
    port = free_port()

    def start() -> Child:
        where = ("--host", HOST, "--port", str(port))
        api = fleet.start("api", "-m", "uvicorn", "service.app:create_app", "--factory", "--no-access-log", *where)
        until(lambda: _answers(port), "the API", timeout=60.0)
        return api

    with Client(f"http://{HOST}:{port}", patience=90.0) as client:
        yield client, start


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def members(fleet: Fleet) -> int:
    [(count,)] = fleet.rows("SELECT count(*) FROM series_members")
    return int(count)


def complete(fleet: Fleet, client: Client, series_id: str) -> Series:
    """The document once all has ended; each member was measured, by one audit, whose runs succeeded once."""
    found = client.wait_series(series_id, timeout=180.0, every=2.0)
    assert found["members"] == {
        "waiting": 0, "measured": len(STEPS), "failed": 0, "cancelled": 0, "total": len(STEPS),
    }  # fmt: skip
    audits = fleet.rows("SELECT a.state, a.series FROM audits a JOIN series_members m ON m.audit_id = a.id")
    assert [(state, str(series)) for state, series in audits] == [("SUCCEEDED", series_id)] * len(STEPS)
    assert fleet.rows("SELECT count(*) FROM audits") == [(len(STEPS),)]
    # Byte for byte the same weights are traced under each name, since its files are others; they are stored once.
    fleet.ended_once(runs=2 * len(STEPS) + 1, traces=2)
    client.close_series(series_id)
    kept = "SELECT document FROM series WHERE covers_members = :n AND covers_settled = :n AND covers_closed"
    [(document,)] = until(lambda: fleet.rows(kept, n=len(STEPS)), "a document that knows all")
    made = Series.model_validate(document)
    assert [(each.step, each.model, each.state) for each in made.members] == [
        (step, MODELS[step], "measured") for step in STEPS
    ]
    assert client.series_document(series_id) == made
    return made


def test_kill_9_of_a_worker_while_a_series_runs(fleet: Fleet, served: Served) -> None:
    client, start = served
    start()
    fleet.hold()
    fleet.start_dispatcher()
    worker = fleet.start_worker("first", concurrency=2)
    series = client.create_series("local:sft", MODELS, prompt_set="hh-harmless-64", profile=SHORT)
    fleet.wait_for_call(2)
    worker.kill()
    fleet.start_worker("second", concurrency=2)
    fleet.wait_for_call(4)
    fleet.go_on()
    assert complete(fleet, client, series["id"]).closed
    assert sorted(str(outcome) for _, outcome in fleet.attempts() if outcome != "succeeded") == ["lost", "lost"]


def test_kill_9_of_the_api_while_members_are_appended(fleet: Fleet, served: Served) -> None:
    client, start = served
    api = start()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    series = client.create_series("local:sft", prompt_set="hh-harmless-64", profile=SHORT)
    added: list[Any] = []
    appending = threading.Thread(target=lambda: added.extend(client.add_members(series["id"], MODELS)))
    appending.start()
    # In the middle of the request: some are written, and nobody has been told.
    until(lambda: members(fleet) > 0, "a member")
    api.kill()
    start()
    appending.join(timeout=120.0)
    assert [each["step"] for each in added] == list(STEPS)
    complete(fleet, client, series["id"])


def test_kill_9_of_the_dispatcher_and_of_the_api_while_a_document_is_out_of_date(fleet: Fleet, served: Served) -> None:
    client, start = served
    api = start()
    fleet.start_dispatcher()
    fleet.start_worker(concurrency=2)
    series = client.create_series("local:sft", {100: MODELS[100]}, prompt_set="hh-harmless-64", profile=SHORT)
    until(lambda: fleet.rows("SELECT 1 FROM series WHERE covers_settled = 1"), "a document")
    client.add_folder(series["id"], "local:run/checkpoint-*")
    fleet.children["dispatcher"].kill()
    api.kill()
    start()
    fleet.start_dispatcher("another")
    complete(fleet, client, series["id"])
