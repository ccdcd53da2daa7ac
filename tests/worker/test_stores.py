"""Captures that are lost, and folders that are not what they should be."""

import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from structlog.testing import CapturingLogger

from service.database.unit_of_work import Ledger
from service.operations.own_store import installation_id, require_own_store
from service.operations.retention import delete_what_can_be_made_again
from service.platform.artifacts import MARKER, ArtifactStore
from service.settings import Settings
from service.traces.store import measured_again
from spinal.errors import Cancelled, StorageRefused, StorageUnavailable
from tests.support.engine_double import calls
from tests.support.waiting import until
from worker.stores import Aside, through_outages

Drain = Callable[[], int]


def audited(api: TestClient, drain: Drain, seed: int) -> str:
    body = {"reference": "local:sft", "candidate": "local:dpo-short", "profile": {"seed": seed}}
    made = api.post("/v1/audits", json=body)
    assert made.status_code in (201, 202), made.text
    drain()
    state: str = api.get(made.json()["links"]["self"]).json()["state"]
    return state


def folder_of(settings: Settings) -> Path:
    return Path(settings.artifact_url.removeprefix("file://"))


def again(ledger: Ledger) -> int:
    with ledger.read() as session:
        return measured_again(session)


def test_a_lost_capture_is_measured_again_once_and_counted(
    api: TestClient,
    drain: Drain,
    double: Path,
    api_settings: Settings,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert audited(api, drain, 1) == "SUCCEEDED"
    assert again(ledger) == 0
    first, *_ = (folder_of(api_settings) / "captures").glob("*/*.safetensors")
    first.unlink()
    said = CapturingLogger()
    monkeypatch.setattr("worker.kinds.inputs.log", said)
    assert audited(api, drain, 2) == "SUCCEEDED"
    [told] = said.calls
    assert told.args == ("a stored capture is measured again",)
    assert "do all workers share the folder" in told.kwargs["hint"]
    assert again(ledger) == 1
    assert audited(api, drain, 3) == "SUCCEEDED"
    assert again(ledger) == 1
    assert len([call for call in calls(double) if call[1] == "measure"]) == 3


def test_a_capture_that_was_deleted_on_purpose_is_not_counted(
    api: TestClient, drain: Drain, api_settings: Settings, ledger: Ledger
) -> None:
    assert audited(api, drain, 1) == "SUCCEEDED"
    found = delete_what_can_be_made_again(ledger, ArtifactStore(api_settings), 0.0, None, apply=True)
    assert found["captures"] == 2
    assert audited(api, drain, 2) == "SUCCEEDED"
    assert again(ledger) == 0


def test_a_store_that_is_not_mounted_loses_no_capture(
    api: TestClient, drain: Drain, double: Path, api_settings: Settings, ledger: Ledger
) -> None:
    """An empty folder where the store was: what it does not show is not gone."""
    assert audited(api, drain, 1) == "SUCCEEDED"
    folder = folder_of(api_settings)
    folder.rename(folder.with_name("aside"))
    folder.mkdir()
    artifacts = ArtifactStore(api_settings)
    artifacts.is_marked()
    with ledger.read() as session:
        [uri, _] = session.execute(text("SELECT capture_uri FROM traces")).scalars()
    for look in (artifacts.size, artifacts.sha256):
        with pytest.raises(StorageUnavailable, match="does not show"):
            look(uri)
    folder.rmdir()
    folder.with_name("aside").rename(folder)
    assert artifacts.size(uri)


def test_a_store_without_a_marker_is_adopted_by_the_database_that_names_its_captures(
    api: TestClient, drain: Drain, api_settings: Settings, ledger: Ledger
) -> None:
    assert audited(api, drain, 1) == "SUCCEEDED"
    (folder_of(api_settings) / MARKER).unlink()
    for adopt, marked in ((False, False), (True, True)):
        require_own_store(ledger, ArtifactStore(api_settings), adopt=adopt)
        assert (ArtifactStore(api_settings).marker() is not None) == marked


def test_a_store_of_others_is_neither_adopted_nor_emptied(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    artifacts = ArtifactStore(settings)
    (tmp_path / "theirs").write_bytes(b"theirs")
    uri = artifacts.put(tmp_path / "theirs", "theirs").uri
    with pytest.raises(StorageRefused, match="none of its 1 captures is of this database"):
        delete_what_can_be_made_again(ledger, artifacts, 0.0, None, apply=True)
    artifacts.mark(uuid.uuid4())
    for apply in (False, True):
        with pytest.raises(StorageRefused, match="belongs to installation"):
            delete_what_can_be_made_again(ledger, artifacts, 0.0, None, apply=apply)
    assert artifacts.size(uri) == 6


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_many_workers_that_start_at_once_mark_a_folder_once(
    settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr("service.platform.artifacts.os.link", refuse)
    problems: list[BaseException] = []

    def start() -> None:
        try:
            store = ArtifactStore(settings)
            require_own_store(ledger, store, adopt=True)
            store.probe()
        except BaseException as error:  # noqa: BLE001  whatever a thread met is asserted on below
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ledger.read() as session:
        own = installation_id(session)
    assert problems == []
    assert ArtifactStore(settings).marker() == own
    assert [path.name for path in folder_of(settings).rglob("*") if path.is_file()] == [MARKER]


def test_every_way_in_which_a_local_folder_fails_is_an_unavailable_store(settings: Settings, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.write_bytes(b"capture")
    (tmp_path / "taken").write_text("a file")
    broken = ArtifactStore(settings.model_copy(update={"artifact_url": f"file://{tmp_path / 'taken' / 'store'}"}))
    for attempt in (
        lambda: broken.put(local, "a"), lambda: broken.size("captures/a"), lambda: broken.sha256("captures/a"),
        broken.probe, broken.marker, lambda: broken.mark(uuid.uuid4()), lambda: broken.remove("captures/a"),
        lambda: broken.local_copy("captures/a", 1, None).__enter__(),
    ):  # fmt: skip
        with pytest.raises(StorageUnavailable):
            attempt()
    no_scratch = ArtifactStore(settings.model_copy(update={"scratch_dir": tmp_path / "taken" / "scratch"}))
    with pytest.raises(StorageUnavailable):
        no_scratch.probe()


def test_waiting_ends_as_soon_as_it_is_told_and_what_comes_late_is_put_away() -> None:
    going = threading.Event()
    put_away: list[int] = []

    def slow() -> int:
        going.wait(30.0)
        return 7

    before = time.monotonic()
    with pytest.raises(Cancelled):
        Aside(slow, put_away.append).wait(lambda: True)
    assert time.monotonic() - before < 20.0
    going.set()
    until(lambda: put_away == [7], "the late result to be put away")


def test_patience_is_counted_from_the_first_failure_and_its_end_tells_the_last() -> None:
    asked: list[float] = []
    tries: list[int] = []

    def call() -> None:
        raise StorageUnavailable(f"try {len(tries)}")

    def patient(since: float) -> bool:
        asked.append(since)
        return len(asked) < 3

    with pytest.raises(StorageUnavailable, match="try 2"):
        through_outages(call, stopped=lambda: False, patient=patient, waiting=tries.append)
    assert len(set(asked)) == 1
    assert tries == [1, 2]
