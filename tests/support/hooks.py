"""What tests of webhooks do: make them, let things happen, deliver, and let time pass."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.deliveries.events import add_event
from service.deliveries.outbox import add_delivery, send_out
from service.deliveries.targets import Place
from service.settings import Settings
from service.webhooks.store import insert_webhook

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
PEPPER = "pepper of a test"
LOCAL: dict[str, Any] = {"webhook_private": ("127.0.0.1",)}
"""Receivers on loopback."""


def for_webhooks(settings: Settings, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Settings:
    """The settings of API and workers with a pepper and ``changes``."""
    changes = LOCAL | changes
    for name, value in changes.items():
        monkeypatch.setenv(f"SPINAL_{name}".upper(), ",".join(value) if isinstance(value, tuple) else str(value))
    monkeypatch.setenv("SPINAL_KEY_PEPPER", PEPPER)
    return settings.model_copy(update=changes | {"key_pepper": SecretStr(PEPPER)})


def put_webhook(ledger: Ledger, settings: Settings, tenant: str = "default") -> dict[str, str]:
    """One with a delivery that waits, where there is no pepper either; what paths are filled with."""
    webhook = new_id()
    with ledger.begin() as session:
        members = {"url": "https://hooks.example.org/spinal", "events": ["*"]}
        assert insert_webhook(session, webhook, tenant, members, most=100)
        event = add_event(session, tenant, "webhook.test", "webhook", webhook, {})
        delivery = add_delivery(session, settings, event, "webhook", Place(webhook_id=webhook))
    return {"webhook_id": str(webhook), "delivery_id": str(delivery)}


@dataclass
class Hooks:
    api: TestClient
    drain: Callable[..., int]
    ledger: Ledger
    settings: Settings

    def make(self, url: str, **members: Any) -> dict[str, Any]:
        answer = self.api.post("/v1/webhooks", json={"url": url} | members)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def read(self, made: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/v1/webhooks/{made['id']}").json()
        return found

    def test(self, made: dict[str, Any]) -> dict[str, Any]:
        answer = self.api.post(f"/v1/webhooks/{made['id']}/test")
        assert answer.status_code == 202, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def log(self, made: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self.api.get(f"/v1/webhooks/{made['id']}/deliveries")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    def submit(self, **changes: Any) -> str:
        answer = self.api.post("/v1/audits", json=PAIR | changes)
        assert answer.status_code in (201, 202), answer.text
        return str(answer.json()["id"])

    def end_one(self, **changes: Any) -> str:
        """An audit that is cancelled: the soonest end that there is."""
        audit = self.submit(**changes)
        assert self.api.post(f"/v1/audits/{audit}/cancel").status_code == 200
        return audit

    def send(self) -> int:
        """What the dispatcher and a worker do; returns how many attempts were made. On a slow machine, too, it is
        one of each delivery: time passes when a test says so."""
        send_out(self.ledger, self.settings)
        return self.drain(each_once=True)

    def pass_time(self, seconds: float) -> None:
        """Everything that waits, and everything that has been so for some time, has been for so much longer."""
        with self.ledger.begin() as session:
            for column, table in (
                ("not_before", "runs WHERE kind = 'deliver' AND state = 'QUEUED'"),
                ("failing_since", "webhooks WHERE TRUE"),
                ("rotated_at", "webhooks WHERE TRUE"),
                ("former_until", "webhooks WHERE TRUE"),
            ):
                name, _, where = table.partition(" WHERE ")
                session.execute(
                    text(f"UPDATE {name} SET {column} = {column} - make_interval(secs => :s) WHERE {where}"),
                    {"s": seconds},
                )
