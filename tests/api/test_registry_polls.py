"""What polls find where not all of a registry can be looked at, and where a rule was changed."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.database.unit_of_work import Ledger
from service.integrations import polls
from service.integrations.polls import poll
from service.settings import Settings
from tests.api.conftest import BUNDLED
from tests.api.test_registries import _by_hand, api_settings, hub, mlflow, model_sources, registries, told, versions
from tests.support.hub import Hub
from tests.support.hub_serving import Fault
from tests.support.scripted_registry import API, Registry, says

__all__ = ["_by_hand", "api_settings", "hub", "mlflow", "model_sources", "registries", "told"]
ODD = "chat 'a\" b"
"""A name that MLflow's search cannot be asked for."""


def of_hub(settings: Settings, *models: str, **changes: Any) -> Any:
    """The hub, with a rule for each repository."""
    own = settings.registries.by_name["hub"]
    rules = [
        own.rules[0].model_copy(update={"name": f"rule-{number}", "model": model} | changes)
        for number, model in enumerate(models)
    ]
    return own.model_copy(update={"rules": tuple(rules)})


def with_rule(settings: Settings, **changes: Any) -> Any:
    own = settings.registries.by_name["production"]
    return own.model_copy(update={"rules": (own.rules[0].model_copy(update=changes),)})


def states(api: TestClient, name: str = "production") -> dict[tuple[str, str], str]:
    return {(each["model"], each["version"]): each["state"] for each in versions(api, name)}


def problem_of(api: TestClient, name: str = "production") -> Any:
    [registry] = [each for each in api.get("/v1/integrations").json()["items"] if each["name"] == name]
    return registry["poll_problem"]


@pytest.mark.parametrize("trouble", ["gated", "disabled", "not allowed"])
def test_a_repository_that_cannot_be_looked_at_keeps_no_other_from_being_found(
    ledger: Ledger, api_settings: Settings, api: TestClient, hub: Hub, trouble: str
) -> None:
    bad = "others/a" if trouble == "not allowed" else "acme/a"
    closed = hub.add(bad, BUNDLED / "sft", gated=trouble == "gated")
    closed.disabled = trouble == "disabled"
    hub.add("acme/z", BUNDLED / "sft")
    own = of_hub(api_settings, bad, "acme/chat", "acme/z")
    assert poll(ledger, api_settings, "hub", own) == 0
    code = "source_refused" if trouble == "not allowed" else "model_access_refused"
    assert (problem_of(api, "hub")["code"], problem_of(api, "hub")["model"]) == (code, bad)
    new = {name: hub.repositories[name].commit(BUNDLED / "dpo-short") for name in ("acme/chat", "acme/z")}
    assert poll(ledger, api_settings, "hub", own) == 2
    found = {key for key, state in states(api, "hub").items() if state == "waiting"}
    assert found == set(new.items())
    if trouble == "not allowed":
        return
    # When it can be looked at for the first time, what is there by then is the past.
    closed.gated = closed.disabled = False
    assert poll(ledger, api_settings, "hub", own) == 0
    assert problem_of(api, "hub") is None
    commit = closed.commit(BUNDLED / "dpo-short")
    assert poll(ledger, api_settings, "hub", own) == 1
    # Closed and opened again it is what it was: what came meanwhile is new.
    closed.gated = True
    later = closed.commit(BUNDLED / "sft")
    assert poll(ledger, api_settings, "hub", own) == 0
    closed.gated = False
    assert poll(ledger, api_settings, "hub", own) == 1
    assert (states(api, "hub")[bad, commit], states(api, "hub")[bad, later]) == ("waiting", "waiting")


def test_a_hub_that_does_not_answer_ends_the_poll_and_what_was_found_is_kept(
    ledger: Ledger, api_settings: Settings, api: TestClient, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.sample", lambda population, _: list(population))
    hub.add("acme/z", BUNDLED / "sft")
    own = of_hub(api_settings, "acme/chat", "acme/z")
    assert poll(ledger, api_settings, "hub", own) == 0
    commit = hub.repositories["acme/chat"].commit(BUNDLED / "dpo-short")
    hub.repositories["acme/z"].commit(BUNDLED / "dpo-short")
    hub.inject(Fault("* /api/models/acme/z/*", status=503))
    assert poll(ledger, api_settings, "hub", own) == 1
    assert states(api, "hub")["acme/chat", commit] == "waiting"
    assert problem_of(api, "hub")["code"] == "source_unavailable"
    hub.heal()
    assert poll(ledger, api_settings, "hub", own) == 1
    # No repository is asked for behind the deadline.
    hub.forget()
    monkeypatch.setattr(polls, "POLL_S", -1.0)
    assert poll(ledger, api_settings, "hub", own) == 0
    assert (hub.requests(), problem_of(api, "hub")["code"]) == ([], "source_unavailable")


def test_a_model_that_cannot_be_asked_for_keeps_no_other_from_being_found(
    ledger: Ledger, api_settings: Settings, api: TestClient, mlflow: Registry
) -> None:
    mlflow.register(ODD, "1", "somewhere")
    mlflow.register("chat-z", "1", "somewhere")
    own = with_rule(api_settings, model="*")
    assert poll(ledger, api_settings, "production", own) == 0
    assert (problem_of(api)["code"], problem_of(api)["model"]) == ("source_refused", ODD)
    mlflow.register("chat-z", "2", "somewhere")
    assert poll(ledger, api_settings, "production", own) == 1
    assert states(api) == {
        ("chat", "1"): "past", ("chat", "2"): "past", ("chat-z", "1"): "past", ("chat-z", "2"): "waiting"
    }  # fmt: skip
    # Of a list that is over its limit, or of which the rest does not come, nothing is half kept.
    mlflow.instead[f"{API}/model-versions/search"] = says(b"", 503)
    mlflow.register("chat-z", "3", "somewhere")
    assert poll(ledger, api_settings, "production", own) == 0
    assert problem_of(api)["code"] == "source_unavailable"
    mlflow.instead.clear()
    assert poll(ledger, api_settings, "production", own) == 1


def test_a_registry_of_which_nearly_nothing_can_be_looked_at_is_one_that_cannot_be(
    ledger: Ledger, api_settings: Settings, api: TestClient, mlflow: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polls, "MOST_MISSED", 1)
    mlflow.register("chat-z", "1", "somewhere")
    mlflow.instead[f"{API}/model-versions/search"] = says({"error_code": "PERMISSION_DENIED"}, 403)
    own = with_rule(api_settings, model="*")
    assert poll(ledger, api_settings, "production", own) == 0
    assert "model" not in problem_of(api)
    mlflow.instead.clear()
    # It was not looked through: this look is still the first.
    assert poll(ledger, api_settings, "production", own) == 0
    assert set(states(api).values()) == {"past"}


WIDER = [
    ({"model": "chat"}, {"model": "*"}),
    ({"aliases": ("other",), "reference": "/1"}, {"aliases": (), "reference": "/1"}),
    ({"tags": {"ready": "yes"}}, {"tags": {}}),
    ({"tags": {"ready": "yes"}}, {"tags": {"ready": "no"}}),
    ({"stage": "Production"}, {"stage": "Staging"}),
]


@pytest.mark.parametrize(("before", "after"), WIDER)
@pytest.mark.parametrize("backfill", [False, True])
def test_what_a_rule_that_was_changed_selects_anew_is_the_past(
    ledger: Ledger,
    api_settings: Settings,
    api: TestClient,
    mlflow: Registry,
    before: dict[str, Any],
    after: dict[str, Any],
    backfill: bool,
) -> None:
    def register(number: str) -> None:
        mlflow.register("other" if after.get("model") == "*" else "chat", number, "somewhere")
        made = mlflow.versions["other" if after.get("model") == "*" else "chat", number]
        made["tags"], made["current_stage"] = [{"key": "ready", "value": "no"}], "Staging"

    register("5")
    poll(ledger, api_settings, "production", with_rule(api_settings, **before))
    changed = with_rule(api_settings, **after).model_copy(update={"backfill": backfill})
    found = poll(ledger, api_settings, "production", changed)
    assert {version: state for (_, version), state in states(api).items()}["5"] == ("waiting" if backfill else "past")
    assert (found > 0) is backfill
    # From then on what it finds is new.
    register("6")
    assert poll(ledger, api_settings, "production", changed) == 1


def test_a_rule_of_which_something_else_was_changed_finds_what_is_new(
    ledger: Ledger, api_settings: Settings, mlflow: Registry
) -> None:
    first = with_rule(api_settings, tags={"a": "1", "b": "2"})
    poll(ledger, api_settings, "production", first)
    mlflow.register("chat", "3", "somewhere")
    mlflow.versions["chat", "3"]["tags"] = [{"key": "a", "value": "1"}]
    changes = {"tags": {"b": "2", "a": "1"}, "reference": "/1", "policy": "0" * 64, "priority": 3, "labels": {"x": "y"}}
    assert poll(ledger, api_settings, "production", with_rule(api_settings, **changes)) == 1


def test_names_of_aliases_select_the_same_in_whatever_order(api_settings: Settings) -> None:
    [rule] = with_rule(api_settings, aliases=("a", "b"), reference="/1").rules
    assert rule.selection == rule.model_copy(update={"aliases": ("b", "a", "b")}).selection
    assert len({rule.model_copy(update=each).selection for pair in WIDER for each in pair}) > 5
