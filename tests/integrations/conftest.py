"""A service that comes and goes, and callbacks that feed it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from spinal.connection import Connection, json_of
from spinal.integrations import left
from spinal.integrations.callback import Hooks
from spinal.integrations.service_series import ServiceSeries
from tests.support.scripted_series import Stage

SECRET = "spk_test_secretsecretsecret"


class SeriesCalls:
    """What is needed of the client."""

    def __init__(self, server: str, key: str | None, *, patience: float) -> None:
        self._connection = Connection(server, key, timeout=30.0, patience=patience, transport=None, on_away=None)

    def create_series(self, reference: str, *, idempotency_key: str, **asked: Any) -> dict[str, Any]:
        body = {"reference": reference} | {name: value for name, value in asked.items() if value is not None}
        return self._json("POST", "", json=body, headers={"Idempotency-Key": idempotency_key})

    def add_members(self, series_id: str, members: Mapping[int, str]) -> dict[str, Any]:
        listed = [{"step": step, "model": model} for step, model in members.items()]
        return self._json("POST", f"/{series_id}/members", json={"members": listed})

    def series_document(self, series_id: str) -> dict[str, Any]:
        return self._json("GET", f"/{series_id}/document")

    def close_series(self, series_id: str) -> dict[str, Any]:
        return self._json("POST", f"/{series_id}/close")

    def close(self) -> None:
        self._connection.http.close()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        return json_of(self._connection.send(method, f"/v1/series{path}", **options))


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
