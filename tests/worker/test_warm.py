"""A worker process keeps one reference between its runs, within the bound of its settings."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.settings import Settings
from spinal.warm import Warm
from tests.support import engine_double
from worker.engine import warm_reference

Drain = Callable[[], int]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Warm]:
    """What the engine is given to keep things in, call by call."""
    found: list[Warm] = []

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, warm: Warm, **members: Any) -> Any:
            found.append(warm)
            return work(*args, **members)

        return noted

    for name in ("measure", "gather_evidence"):
        monkeypatch.setattr(engine_double, name, noting(getattr(engine_double, name)))
    warm_reference.cache_clear()
    return found


def submit(api: TestClient, candidate: str) -> None:
    body = {"reference": "local:sft", "candidate": candidate, "prompt_set": "hh-harmless-64"}
    assert api.post("/v1/audits", json=body).status_code in {200, 201, 202}


def test_runs_of_one_process_are_given_one_place_of_the_size_that_is_set(
    api: TestClient, drain: Drain, given: list[Warm]
) -> None:
    submit(api, "local:dpo-short")
    assert drain() == 3
    submit(api, "local:sft")
    assert drain() >= 1
    assert len(given) >= 4
    assert all(warm is given[0] for warm in given)
    assert given[0].limit_bytes == Settings().warm_reference_bytes == 2 * 2**30


def test_the_bound_is_a_setting_and_0_keeps_nothing(
    api: TestClient, drain: Drain, given: list[Warm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINAL_WARM_REFERENCE_BYTES", "0")
    submit(api, "local:dpo-short")
    drain()
    assert [warm.limit_bytes for warm in given] == [0, 0, 0]
