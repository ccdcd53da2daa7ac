"""Scratch folders, artifact stores and devices that fail under real workers: no run is charged, and none is lost."""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.chaos.test_failing_runs import codes
from tests.conftest import Without
from tests.support.fleet import Fleet
from tests.support.object_server import OWNER, ObjectServer, missing
from tests.support.waiting import until


def folder_of(settings: Settings) -> Path:
    return Path(settings.artifact_url.removeprefix("file://"))


def break_store(settings: Settings) -> Callable[[], None]:
    """Root may write everywhere: what stops it, too, is a file where the folder should be."""
    folder = folder_of(settings)
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.write_text("no folder")

    def mend() -> None:
        folder.unlink()
        aside.rename(folder)

    return mend


def measuring(fleet: Fleet, **settings: Any) -> None:
    """A worker in the middle of a measurement."""
    fleet.hold()
    fleet.start_dispatcher()
    fleet.start_worker(**settings)


def called(fleet: Fleet) -> int:
    """The process in which the first measurement goes on."""
    until(fleet.calls, "a measurement", timeout=150.0)
    return fleet.calls()[0][0]


def charged(fleet: Fleet) -> list[int]:
    return [row.charged_attempts for row in fleet.rows("SELECT charged_attempts FROM runs ORDER BY created_at")]


def says(fleet: Fleet, what: str, name: str = "worker", times: int = 1) -> None:
    until(lambda: fleet.log(name).count(what) >= times, f"{name} to say: {what}", timeout=150.0)


def nothing_half_written(settings: Settings, fleet: Fleet) -> None:
    left = [path for path in folder_of(settings).rglob("*") if path.is_file()]
    assert [path.suffix for path in left if path.name != "spinal-installation"] == [".safetensors"] * (len(left) - 1)
    assert list((fleet.folder / "scratch").iterdir()) == []


def test_a_capture_waits_for_its_store_with_the_lease_kept(fleet: Fleet, settings: Settings) -> None:
    measuring(fleet, SPINAL_STALL_S="8")
    audit = fleet.submit(reference=None)
    called(fleet)
    mend = break_store(settings)
    fleet.go_on()
    # For longer than a lease, and than a run may be without progress.
    says(fleet, "waiting for storage", times=9)
    mend()
    fleet.wait_for(audit, "SUCCEEDED", timeout=120.0)
    assert codes(fleet) == [("succeeded", None)]
    assert len(fleet.calls()) == 1
    nothing_half_written(settings, fleet)


def test_patience_that_ends_is_not_charged_and_the_worker_takes_no_run_until_the_store_is_back(
    fleet: Fleet, settings: Settings
) -> None:
    measuring(fleet, SPINAL_OUTAGE_PATIENCE_S="2")
    first = fleet.submit(reference=None)
    called(fleet)
    mend = break_store(settings)
    fleet.go_on()
    second = fleet.submit(reference=None, max_tokens=32)
    says(fleet, "taking no runs", times=3)
    assert codes(fleet) == [("released", "storage_unavailable")]
    assert charged(fleet) == [0, 0]
    mend()
    for audit in (first, second):
        fleet.wait_for(audit, "SUCCEEDED", timeout=120.0)
    assert [code for code in codes(fleet) if code[0] != "succeeded"] == [("released", "storage_unavailable")]
    assert charged(fleet) == [1, 1]
    says(fleet, "taking runs again")


def test_a_store_that_never_comes_back_is_the_reason_of_the_failure(fleet: Fleet, settings: Settings) -> None:
    measuring(fleet, SPINAL_OUTAGE_PATIENCE_S="1", SPINAL_STORAGE_PATIENCE_S="0")
    audit = fleet.submit(reference=None)
    called(fleet)
    break_store(settings)
    fleet.go_on()
    fleet.wait_for(audit, "FAILED")
    assert fleet.rows("SELECT error->>'code' AS code FROM audits") == [("storage_unavailable",)]
    assert codes(fleet) == [("failed", "storage_unavailable")]


@pytest.mark.parametrize("told", ["cancel", "release"])
def test_who_waits_for_a_store_hears_at_once_that_it_is_to_stop(fleet: Fleet, settings: Settings, told: str) -> None:
    measuring(fleet)
    audit = fleet.submit(reference=None)
    pid = called(fleet)
    mend = break_store(settings)
    fleet.go_on()
    says(fleet, "waiting for storage")
    if told == "cancel":
        fleet.cancel(audit)
        fleet.wait_for(audit, "CANCELLED")
        until(lambda: codes(fleet) == [("cancelled", None)], "the attempt to end")
        assert (Path("/proc") / str(pid)).exists(), "no process had to be ended"
    else:
        worker = fleet.children["worker"]
        worker.process.terminate()
        worker.process.wait(30)
        assert [outcome for outcome, _ in codes(fleet)] == ["released"]
        assert charged(fleet) == [0]
    mend()
    nothing_half_written(settings, fleet)


def test_one_broken_worker_takes_nothing_from_a_good_one(fleet: Fleet) -> None:
    (fleet.folder / "taken").write_text("a file where a folder should be")
    fleet.start_worker("broken", concurrency=2, SPINAL_SCRATCH_DIR=str(fleet.folder / "taken" / "scratch"))
    fleet.start_dispatcher()
    audits = [fleet.submit(reference=None, max_tokens=16 + number) for number in range(4)]
    says(fleet, "taking no runs", "broken", times=4)
    fleet.start_worker("good")
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=120.0)
    assert codes(fleet) == [("succeeded", None)] * 4
    assert "claimed" not in fleet.log("broken")


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("which", ["scratch", "store"])
def test_a_disk_that_is_full_in_the_middle_of_a_capture(
    fleet: Fleet, settings: Settings, without: Without, which: str
) -> None:
    disk = fleet.folder / "scratch" if which == "scratch" else folder_of(settings)
    try:
        with small_disk(fleet.folder / "try"):
            pass
    except (OSError, subprocess.CalledProcessError):
        without("the right to mount a small disk", "run the tests as root of a machine, or of a container that may")
    with small_disk(disk):
        measuring(fleet, SPINAL_OUTAGE_PATIENCE_S="60")
        audit = fleet.submit(reference=None)
        called(fleet)
        filler = disk / "filler"
        with filler.open("wb") as stream:
            stream.write(b"x" * (8 * 2**20 - 24 * 1024 - sum(f.stat().st_size for f in disk.rglob("*") if f.is_file())))
        fleet.go_on()
        says(fleet, "waiting for storage", times=2)
        assert list(disk.rglob("*.partial")) == []
        filler.unlink()
        fleet.wait_for(audit, "SUCCEEDED", timeout=120.0)
        assert codes(fleet) == [("succeeded", None)]
        assert charged(fleet) == [1]
        assert len(fleet.calls()) == 1


def test_a_store_of_another_installation_is_refused_with_one_line(fleet: Fleet, settings: Settings) -> None:
    folder_of(settings).mkdir(parents=True)
    (folder_of(settings) / "spinal-installation").write_text("00000000-0000-4000-8000-000000000000\n")
    worker = fleet.start_worker()
    assert worker.process.wait(150) == 1
    assert refusal(fleet) == ["belongs to installation 00000000-0000-4000-8000-000000000000"]


def refusal(fleet: Fleet, name: str = "worker") -> list[str]:
    """The only line that says why."""
    assert "Traceback" not in fleet.log(name)
    lines = [line for line in fleet.log(name).splitlines() if line.startswith("error:")]
    known = ("belongs to installation 00000000-0000-4000-8000-000000000000", "does not let this worker in",
             "the bucket of the artifact store is not there")  # fmt: skip
    return [words for line in lines for words in known if words in line]


@pytest.fixture
def bucket(tmp_path: Path, without: Without) -> Iterator[ObjectServer]:
    home = tmp_path / "objects"
    home.mkdir()
    if importlib.util.find_spec("s3fs") is None:
        without("s3fs", 'pip install "spinal[s3]"')
    if lacks := missing(home):
        without(*lacks)
    with ObjectServer(home) as running:
        running.make_bucket("captures")
        yield running


def in_bucket(server: ObjectServer, **more: str) -> dict[str, Any]:
    said = {"endpoint_url": server.endpoint, "region": "us-east-1", "key": OWNER.id, "secret": OWNER.secret} | more
    return {
        "SPINAL_ARTIFACT_URL": "s3://captures/prod",
        "SPINAL_ARTIFACT_OPTIONS": json.dumps(said),
        "SPINAL_ARTIFACT_TIMEOUT_S": "1",
    }


def test_two_workers_without_a_common_disk_share_a_bucket_that_freezes_and_is_killed(
    fleet: Fleet, bucket: ObjectServer
) -> None:
    """Both captures are made by one worker and compared by the other: no attempt is charged for the store, and nothing
    is measured twice."""
    fleet.environment |= in_bucket(bucket)
    # A run that hung in a call of the store would be found to have stalled.
    measuring(fleet, SPINAL_SCRATCH_DIR=str(fleet.folder / "one"), SPINAL_STALL_S="12")
    sides = [fleet.submit(reference=None, candidate=side) for side in ("local:sft", "local:dpo-short")]
    called(fleet)
    with bucket.frozen():
        fleet.go_on()
        says(fleet, "waiting for storage", times=2)
    for side in sides:
        fleet.wait_for(side, "SUCCEEDED", timeout=120.0)
    fleet.children["worker"].stop(timeout=60.0)
    bucket.kill()
    both = fleet.submit()
    fleet.start_worker("two", SPINAL_SCRATCH_DIR=str(fleet.folder / "two"))
    says(fleet, "taking no runs", "two")
    bucket.start()
    fleet.wait_for(both, "SUCCEEDED", timeout=120.0)
    assert sorted(what for _, what, _ in fleet.calls()) == ["compare", "measure", "measure"]
    assert codes(fleet) == [("succeeded", None)] * 3
    assert charged(fleet) == [1] * 3
    assert fleet.rows("SELECT sum(measured_again) FROM traces") == [(0,)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"SPINAL_ARTIFACT_URL": "s3://nobody-made-this/x"}, "the bucket of the artifact store is not there"),
        ({"secret": "not-the-secret"}, "does not let this worker in"),
    ],
    ids=["no bucket", "wrong secret"],
)
def test_a_bucket_that_cannot_be_used_as_it_is_set_up_is_told_at_start_in_one_line(
    fleet: Fleet, bucket: ObjectServer, wrong: dict[str, str], said: str
) -> None:
    options = {name: value for name, value in wrong.items() if not name.startswith("SPINAL_")}
    urls = {name: value for name, value in wrong.items() if name.startswith("SPINAL_")}
    worker = fleet.start_worker(**in_bucket(bucket, **options) | urls)
    assert worker.process.wait(150) == 1
    assert refusal(fleet) == [said]
    assert "not-the-secret" not in fleet.log("worker")
