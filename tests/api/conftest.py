"""An API on a fresh ledger, and workers without processes: the real task code on the engine double."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.runs import rings
from service.settings import Settings, get_settings
from spinal.checkpoints.sources.reach import load_source_settings
from tests.conftest import EXAMPLES
from tests.support.inspectors import KeptInspectors

BUNDLED = EXAMPLES / "checkpoints"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model root with the bundled pair, to which a test may add."""
    root = tmp_path / "models"
    root.mkdir()
    for name in ("sft", "dpo-short"):
        clone(name, root / name)
    return root


def clone(name: str, target: Path, **changed: str | bytes | None) -> Path:
    """A copy of a bundled checkpoint; ``file__ext=content`` replaces a file, None leaves it out."""
    target.mkdir()
    replaced = {key.replace("__", "."): content for key, content in changed.items()}
    for source in (BUNDLED / name).iterdir():
        if source.name not in replaced:
            shutil.copyfile(source, target / source.name)
    for file, content in replaced.items():
        if content is not None:
            (target / file).write_bytes(content.encode() if isinstance(content, str) else content)
    return target


@pytest.fixture
def model_sources() -> str:
    """What the operator says of sources, as JSON: nothing, where a test does not."""
    return "{}"


@pytest.fixture
def api_settings(settings: Settings, models: Path, model_sources: str, tmp_path: Path) -> Settings:
    return settings.model_copy(
        update={
            "model_roots": (models,),
            "model_sources": load_source_settings(model_sources),
            "model_store": tmp_path / "model-store",
            "engine": "tests.support.engine_double",
            "backoff_s": 0.0,
            "log_level": "error",
        }
    )


@pytest.fixture(autouse=True)
def _inspectors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.app.Inspectors", KeptInspectors)


@pytest.fixture
def api(api_settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder that steers the engine double."""
    folder = tmp_path / "double"
    folder.mkdir()
    monkeypatch.setenv("SPINAL_DOUBLE_DIR", str(folder))
    return folder


@pytest.fixture
def drain(
    api_settings: Settings, model_sources: str, double: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> Iterator[Callable[[], int]]:
    """``drain()`` carries out every due run as a worker would, until none is left; returns how many it rang."""
    from worker import tasks

    environment: dict[str, Any] = {
        "DATABASE_URL": api_settings.database_url.get_secret_value(),
        "ARTIFACT_URL": api_settings.artifact_url,
        "MODEL_ROOTS": ":".join(map(str, api_settings.model_roots)),
        "MODEL_SOURCES": model_sources,
        "MODEL_STORE": api_settings.model_store,
        "ENGINE": api_settings.engine,
        "BACKOFF_S": api_settings.backoff_s,
        "SHARE_RESULTS": api_settings.share_results,
        "TENANT_MODEL_ROOTS": json.dumps(api_settings.model_dump(mode="json")["tenant_model_roots"]),
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"SPINAL_{name}", str(value))
    get_settings.cache_clear()
    tasks._ledger.cache_clear()

    def work(*, each_once: bool = False) -> int:
        """``each_once``: what has its next attempt before the last run had its first waits for the next call."""
        count, had = 0, set[UUID]()
        while True:
            with ledger.begin() as session:
                due = rings.due_runs(session, ring_again_s=0.0, again=("cpu",))
            to_do = [run.run_id for run in due if not each_once or run.run_id not in had]
            if not to_do:
                return count
            for run_id in to_do:
                tasks.perform(run_id, f"test/{count}")
                had.add(run_id)
                count += 1

    yield work
    tasks._ledger().close()
    tasks._ledger.cache_clear()
