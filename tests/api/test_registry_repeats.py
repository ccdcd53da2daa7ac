"""What comes of versions that were refused or not there, and whose turn it is when many wait."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.integrations import asking
from service.settings import Settings
from spinal.checkpoints.bounded import Bounds, Inspectors
from tests.api.conftest import BUNDLED
from tests.api.test_registries import (
    _by_hand,
    api_settings,
    audits,
    hub,
    made,
    mlflow,
    model_sources,
    registries,
    told,
    versions,
)
from tests.support import registry_events as events
from tests.support.hub import Hub
from tests.support.scripted_registry import API, Registry, says

__all__ = ["_by_hand", "api_settings", "hub", "made", "mlflow", "model_sources", "registries", "told"]


def change(ledger: Ledger, what: str, **values: Any) -> None:
    with ledger.begin() as session:
        session.execute(text(f"UPDATE registry_versions SET {what}"), values)


def test_a_commit_that_was_refused_is_looked_at_again_when_the_hub_tells_of_it_again(
    api: TestClient, ledger: Ledger, made: Callable[[], int], hub: Hub
) -> None:
    repository = hub.repositories["acme/chat"]
    push = events.pushed("acme/chat", repository.commit(BUNDLED / "dpo-short"))
    repository.gated = True
    assert api.post("/v1/integrations/huggingface", **push).status_code == 202
    # While it waits, and when it has an audit, the same event does nothing.
    assert api.post("/v1/integrations/huggingface", **push).json()["repeated"] is True
    assert made() == 1
    [version] = versions(api, "hub")
    assert (version["state"], version["problem"]["code"]) == ("refused", "model_access_refused")
    repository.gated = False
    again = api.post("/v1/integrations/huggingface", **push)
    assert (again.status_code, again.json()["repeated"]) == (202, False)
    assert again.json()["versions"][0]["fresh"] is True
    assert made() == 1
    last = api.post("/v1/integrations/huggingface", **push)
    assert (last.status_code, last.json()["repeated"]) == (200, True)
    assert (made(), audits(ledger), versions(api, "hub")[0]["state"]) == (0, 1, "queued")


@pytest.mark.parametrize("kind", ["generic", "mlflow"])
def test_an_event_with_an_id_that_is_sent_again_does_nothing_for_a_version_that_was_refused(
    api: TestClient, made: Callable[[], int], kind: str
) -> None:
    name, event = {
        "generic": ("ci", events.generic("version.created", {"model": "chat", "version": "not-there"})),
        "mlflow": ("production", events.created(version="99")),
    }[kind]
    assert api.post(f"/v1/integrations/{kind}", **event).status_code == 202
    assert made() == 1
    assert [each["state"] for each in versions(api, name)] == ["refused"]
    answer = api.post(f"/v1/integrations/{kind}", **event)
    assert (answer.status_code, answer.json()["repeated"], made()) == (200, True, 0)
    assert [each["state"] for each in versions(api, name)] == ["refused"]


def test_a_version_that_is_not_there_is_looked_for_from_the_first_miss_on(
    api: TestClient, ledger: Ledger, api_settings: Settings, mlflow: Registry
) -> None:
    patient = api_settings.model_copy(update={"missing_model_s": 600.0})

    def look() -> tuple[str, str]:
        change(ledger, "due_at = now()")
        with Inspectors(Bounds(children=1), patient.store_of_models()) as inspectors:
            assert asking.ask_for_next(ledger, patient, inspectors, asking.Turns())
        [version] = versions(api)
        return version["state"], version["problem"]["code"]

    api.post("/v1/integrations/mlflow", **events.created(version="3"))
    mlflow.instead[f"{API}/model-versions/get"] = says(b"", 503)
    assert look() == ("waiting", "source_unavailable")
    # The registry was away for an hour, and was asked often.
    change(ledger, "created_at = created_at - interval '1 hour', tries = 12")
    mlflow.instead.clear()
    assert look() == ("waiting", "model_not_found")
    with ledger.read() as session:
        assert session.execute(text("SELECT due_at < now() + interval '1 minute' FROM registry_versions")).scalar_one()
    assert look() == ("waiting", "model_not_found")
    since = "detail = jsonb_set(detail, '{missing_since}', to_jsonb(now() - interval '601 seconds'))"
    change(ledger, since)
    # What is not answered says nothing of whether it is there.
    mlflow.instead[f"{API}/model-versions/get"] = says(b"", 503)
    assert look() == ("waiting", "source_unavailable")
    mlflow.instead.clear()
    assert look() == ("waiting", "model_not_found")
    change(ledger, since)
    assert look() == ("refused", "model_not_found")


def test_many_versions_of_one_tenant_keep_no_other_tenant_waiting(
    api: TestClient, ledger: Ledger, api_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10, 16):
        api.post("/v1/integrations/mlflow", **events.created(version=str(number)))
    for version in ("a", "b"):
        api.post("/v1/integrations/generic", **events.generic("version.created", {"model": "chat", "version": version}))
    for number in (2, 3):
        api.post("/v1/integrations/mlflow", **events.created(version=str(number), secret="a secret of others"))
    # Theirs came last, and were tried more often.
    change(ledger, "tries = CASE WHEN tenant = 'others' THEN 1 ELSE 0 END")
    asked = []

    def ask(_ledger: Any, _settings: Any, _inspectors: Any, _registry: Any, due: Any) -> None:
        asked.append((due.tenant, due.key.version))
        if due.key.version == "10":
            raise RuntimeError("something that nobody expected")

    monkeypatch.setattr(asking, "_ask", ask)
    turns = asking.Turns()
    with Inspectors(Bounds(children=1), api_settings.store_of_models()) as inspectors:
        for _ in range(6):
            with contextlib.suppress(RuntimeError):
                assert asking.ask_for_next(ledger, api_settings, inspectors, turns)
    assert asked[:4] == [("default", "10"), ("others", "2"), ("default", "11"), ("others", "3")]
    # Where nobody else waits, one tenant has all turns.
    assert asked[4:] == [("default", "12"), ("default", "13")]
