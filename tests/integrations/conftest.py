"""A service that comes and goes, and callbacks that feed it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spinal.client import Client
from spinal.integrations import left
from spinal.integrations.callback import Hooks
from spinal.integrations.service_series import ServiceSeries
from tests.support.scripted_series import Stage

SECRET = "spk_test_secretsecretsecret"


class SeriesCalls(Client):
    """What is needed of the client."""

    def create_series(self, *, reference: str, policy: str | None, labels: dict[str, str] | None) -> dict[str, Any]:
        return self._json("POST", "/v1/series", json={"reference": reference, "policy": policy, "labels": labels})

    def add_members(self, series_id: str, members: list[dict[str, Any]]) -> dict[str, Any]:
        return self._json("POST", f"/v1/series/{series_id}/members", json={"members": members})

    def series_document(self, series_id: str) -> dict[str, Any]:
        return self._json("GET", f"/v1/series/{series_id}/document")

    def close_series(self, series_id: str) -> dict[str, Any]:
        return self._json("POST", f"/v1/series/{series_id}/close")


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The service, not started yet."""
    monkeypatch.setattr("spinal.client.Client", SeriesCalls)
    # What is waited for here comes in tenths of a second.
    monkeypatch.setattr(ServiceSeries, "longest_pause_s", 0.5)
    monkeypatch.setattr(left, "PATIENCE_S", 0.5)
    made = Stage(tmp_path / "service")
    yield made
    made.is_killed()


@pytest.fixture
def callback(stage: Stage, tmp_path: Path) -> Iterator[Callable[..., Hooks]]:
    """Makes callbacks that feed the service, without transformers; whatever they started is stopped afterwards."""
    made: list[Hooks] = []

    def make(**options: Any) -> Hooks:
        asked: dict[str, Any] = {
            "name": "local:spool/run-1",
            "server": stage.server,
            "api_key": SECRET,
            "final_wait": 30.0,
        }
        made.append(Hooks("local:sft", spool=tmp_path / "spool", **(asked | options)))
        return made[-1]

    yield make
    for one in made:
        one.let_go()
