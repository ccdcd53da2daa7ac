"""The whole way with a real ``mlflow server``: a version is created there, is audited, and says so."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from sqlalchemy import text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.deliveries.outbox import send_out
from service.integrations.polls import FOUND, poll_those_due
from service.registries import load_registries
from service.settings import Settings
from tests.api.conftest import BUNDLED, api_settings, double, drain, models
from tests.conftest import Without
from tests.support.mlflow_server import HOW_TO_HAVE_IT, SENDS_HERE, MlflowServer, is_there, served
from tests.support.registry_events import SECRET
from tests.support.served import serving
from tests.support.waiting import until

__all__ = ["api_settings", "double", "drain", "models"]
pytestmark = pytest.mark.server
ROUTE = "/v1/integrations/mlflow"
EVENTS = {"MODEL_VERSION": ["CREATED"], "MODEL_VERSION_ALIAS": ["CREATED"], "MODEL_VERSION_TAG": ["SET"]}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Iterator[MlflowServer]:
    if not is_there():
        without("the environment of an mlflow server", HOW_TO_HAVE_IT)
    with served(tmp_path_factory.mktemp("mlflow"), settings=SENDS_HERE) as server:
        assert server.register("chat", BUNDLED / "sft") == "1"
        server.ask("POST", "registered-models/alias", {"name": "chat", "alias": "champion", "version": "1"})
        yield server


@pytest.fixture
def model_sources(registry: MlflowServer) -> str:
    return json.dumps({"mlflow": {"url": registry.url, "allow": ["chat"], "private_hosts": [registry.host]}})


@dataclass
class Door:
    """Stands before the API: notes what events came to, and answers some of them itself."""

    app: ASGIApp
    away: int = 0
    """So many events are answered with 503."""
    seen: list[tuple[dict[str, str], int]] = field(default_factory=list)
    """Headers and status of each event."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != ROUTE:
            await self.app(scope, receive, send)
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if self.away:
            self.away -= 1
            self.seen.append((headers, 503))
            await send({"type": "http.response.start", "status": 503, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
            return

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.seen.append((headers, message["status"]))
            await send(message)

        await self.app(scope, receive, noting)

    def statuses(self) -> list[int]:
        return [status for _, status in self.seen]


class Polling:
    """Polls as the service does; whoever has ``held`` knows that no poll is going on, or begins."""

    def __init__(self) -> None:
        self.held = threading.Lock()

    def __call__(self, ledger: Ledger, settings: Settings, holder: UUID) -> int:
        with self.held:
            return poll_those_due(ledger, settings, holder)


@dataclass
class Service:
    door: Door
    polling: Polling
    url: str
    settings: Settings

    def get(self, path: str) -> Any:
        answer = httpx.get(self.url + path, timeout=30.0)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def versions(self) -> dict[str, dict[str, Any]]:
        return {each["version"]: each for each in self.get("/v1/integrations/production/versions")["items"]}

    def polled(self) -> Any:
        return self.get("/v1/integrations")["items"][0]["polled_at"]


@pytest.fixture
def service(
    api_settings: Settings,
    registry: MlflowServer,
    model_sources: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Service]:
    """An API that registry tells of versions, and that has looked at what there was before."""
    monkeypatch.setenv("SPINAL_PUBLIC_URL", "https://audits.example")
    monkeypatch.setattr("service.integrations.background.POLL_LOOKS_S", 0.3)
    polling = Polling()
    monkeypatch.setattr("service.integrations.background.poll_those_due", polling)
    (tmp_path / "secret").write_text(SECRET)
    rule = {"name": "chat", "model": "chat", "reference": "@champion", "prompt_set": "hh-harmless-64"}
    own = {"kind": "mlflow", "tenant": "default", "secret_files": [str(tmp_path / "secret")], "rules": [rule]}
    told = json.dumps({"production": own | {"write_back": True, "poll_every_s": 2}})
    # Of the workers.
    monkeypatch.setenv("SPINAL_MODEL_SOURCES", model_sources)
    monkeypatch.setenv("SPINAL_REGISTRIES", told)
    settings = api_settings.model_copy(update={"registries": load_registries(told)})
    door = Door(create_app(settings))
    with serving(door) as url:  # type: ignore[arg-type]  # an application is all that is served
        made = Service(door, polling, url, settings)
        until(made.polled, "the first poll")
        webhook = registry.ask("POST", "webhooks", {
            "name": "spinal", "url": url + ROUTE, "secret": SECRET, "status": "ACTIVE",
            "events": [{"entity": of, "action": action} for of, actions in EVENTS.items() for action in actions],
        })["webhook"]  # fmt: skip
        made.door.seen.clear()
        yield made
        registry.ask("DELETE", f"webhooks/{webhook['webhook_id']}", {})


def tags(registry: MlflowServer, version: str) -> dict[str, str]:
    found = registry.ask("GET", f"model-versions/get?name=chat&version={version}", {})["model_version"]
    return {each["key"]: each["value"] for each in found.get("tags", [])}


def tell(ledger: Ledger, settings: Settings, drain: Callable[[], int]) -> None:
    """What dispatcher and workers do."""
    drain()
    send_out(ledger, settings)
    drain()


def test_a_version_is_created_and_its_verdict_stands_on_it(
    service: Service, registry: MlflowServer, drain: Callable[[], int], ledger: Ledger
) -> None:
    service.door.away = 2
    version = registry.register("chat", BUNDLED / "dpo-short")
    until(lambda: service.door.statuses() == [503, 503, 202], "the third attempt", timeout=60.0)
    names = ("x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature")
    assert len({tuple(headers[name] for name in names) for headers, _ in service.door.seen}) == 1
    until(lambda: service.versions()[version]["state"] == "queued", "the audit", timeout=60.0)
    service.door.seen.clear()
    tell(ledger, service.settings, drain)
    audit = service.get(service.versions()[version]["links"]["audit"])
    assert (audit["candidate"], audit["reference"]) == (f"mlflow:chat/{version}", "mlflow:chat/1")
    said = tags(registry, version)
    assert (said["spinal.state"], said["spinal.verdict"]) == ("SUCCEEDED", audit["verdict"])
    assert (said["spinal.digest"], said["spinal.audit"]) == (audit["comparison"], audit["id"])
    run = registry.ask("GET", f"model-versions/get?name=chat&version={version}", {})["model_version"]["run_id"]
    metrics = registry.ask("GET", f"runs/get?run_id={run}", {})["run"]["data"]["metrics"]
    logged = {each["key"]: each["value"] for each in metrics}
    scores = service.get(f"/v1/audits/{audit['id']}/scores")["scores"]
    assert logged["spinal.delta_align"] == scores["delta_align"]
    # Every tag that we wrote is an event, of which nothing comes.
    until(lambda: len(service.door.seen) >= len(said), "the events of our own tags", timeout=60.0)
    assert set(service.door.statuses()) == {200}
    # Neither does its own test do anything, nor an alias that no rule is about.
    [webhook] = registry.ask("GET", "webhooks", {})["webhooks"]
    tried = registry.ask("POST", f"webhooks/{webhook['webhook_id']}/test", {})["result"]
    assert (tried["success"], json.loads(tried["response_body"])["outcome"]) == (True, "test")
    registry.ask("POST", "registered-models/alias", {"name": "chat", "alias": "other", "version": version})
    until(lambda: len(service.door.seen) >= len(said) + 2, "the event of the alias", timeout=60.0)
    assert len(service.get("/v1/audits")["items"]) == 1


def test_what_mlflow_forgot_with_a_restart_is_found(service: Service, registry: MlflowServer, ledger: Ledger) -> None:
    # No poll finds it ahead of the restart.
    with service.polling.held:
        service.door.away = 1000
        version = registry.register("chat", BUNDLED / "dpo-short")
        until(lambda: service.door.statuses()[:1] == [503], "an attempt that fails", timeout=60.0)
        registry.stop()
        service.door.away = 0
        registry.start()
        assert version not in service.versions()
    until(lambda: service.versions().get(version, {}).get("state") == "queued", "the audit", timeout=60.0)
    assert 202 not in service.door.statuses()
    with ledger.read() as session:
        by = text("SELECT detail->>'by' FROM registry_versions WHERE version = :version")
        assert session.execute(by, {"version": version}).scalar_one() == FOUND
    assert len(service.get("/v1/audits")["items"]) == 1
