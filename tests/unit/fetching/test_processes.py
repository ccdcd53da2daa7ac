"""Several processes share one store, and die or stop while they do."""

import errno
import os
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spinal.checkpoints.fetching import parts, stubs
from spinal.checkpoints.fetching.gather import Want, gather
from spinal.checkpoints.fetching.store import ModelStore
from spinal.errors import Cancelled
from spinal.errors.sources import ModelStoreFull
from spinal.progress import Progress
from tests.support.malformed import make_sound
from tests.support.places import EXAMPLES
from tests.support.scripted_source import Scripted, start, until_stalled
from tests.support.waiting import until
from tests.unit.fetching.test_gather import assert_only_what_it_is_called, blobs

SFT, DPO = (EXAMPLES / "checkpoints" / name for name in ("sft", "dpo-short"))
WEIGHTS = "model.safetensors"
SIZE = (SFT / WEIGHTS).stat().st_size
WHOLE = sum(file.stat().st_size for file in SFT.iterdir())
MOST = SIZE + 600_000
"""Room for one model and the settings of two."""


@pytest.fixture
def source(tmp_path: Path) -> Scripted:
    return Scripted(SFT, tmp_path / "control")


@pytest.fixture
def other(tmp_path: Path) -> Scripted:
    """Another model."""
    return Scripted(DPO, tmp_path / "other", name="hf:org/other@" + "2" * 40)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def fetch(source: Scripted, store: ModelStore, **more: Any) -> int:
    with gather(source.pin(), source, store, want=Want.WEIGHTS, **more) as gathered:
        return gathered.fetched_bytes


def test_two_processes_at_once_fetch_once(source: Scripted, store: ModelStore) -> None:
    source.tell("stall", 2_000_000)
    with start(source, store.folder) as first, start(source, store.folder) as second:
        until_stalled(source)
        seen: list[Progress] = []
        with ThreadPoolExecutor(1) as thread:
            third = thread.submit(fetch, source, store, progress=seen.append)
            # It waits for the first, and says how far that is.
            until(lambda: any(report.done >= 1_900_000 for report in seen), "progress of the other")
            assert source.read_bytes(WEIGHTS) < SIZE
            source.untell("stall")
            outcomes = [first.outcome(), second.outcome()]
            assert sum(outcome["fetched"] for outcome in outcomes) + third.result() == WHOLE
        assert outcomes[0]["sha256"] == outcomes[1]["sha256"]
        assert source.read_bytes() == WHOLE
        assert all(done <= total for outcome in outcomes for done, total in outcome["progress"])
        assert [first.end(), second.end()] == [0, 0]
    assert_only_what_it_is_called(store)


def test_who_gets_the_lock_when_the_file_is_in_place_fetches_nothing(
    source: Scripted, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, others = parts.try_lock, iter([True])

    def late(path: Path) -> int | None:
        # The other one ends between the first look and the lock.
        if next(others, False):
            assert fetch(source, store) == WHOLE
        return real(path)

    monkeypatch.setattr(parts, "try_lock", late)
    assert fetch(source, store, streams=1) == 0


def test_what_a_killed_process_fetched_is_not_fetched_again(source: Scripted, store: ModelStore) -> None:
    source.tell("stall", 2_000_000)
    with start(source, store.folder) as killed:
        until_stalled(source)
        killed.kill()
    source.untell("stall")
    before = source.read_bytes()
    assert fetch(source, store) + before == WHOLE
    assert source.reads(WEIGHTS)[-1] >= 1_900_000
    assert_only_what_it_is_called(store)


def test_a_part_that_was_spoiled_on_the_disk_is_fetched_anew(source: Scripted, store: ModelStore) -> None:
    source.tell("stall", 2_000_000)
    with start(source, store.folder) as killed:
        until_stalled(source)
        killed.kill()
    source.untell("stall")
    (part,) = (file for file in (store.folder / "parts").iterdir() if file.stat().st_size > 1_000_000)
    with part.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"spoiled")
    fetch(source, store)
    assert_only_what_it_is_called(store)
    assert source.reads(WEIGHTS)[-1] == 0


def test_a_part_on_a_bad_sector_is_fetched_anew(
    source: Scripted, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.prepare()
    for listed in source.pin().files or ():
        store.part(f"sha256-{listed.sha256}").write_bytes(b"x")
    real = os.pread

    def pread(descriptor: int, size: int, at: int) -> bytes:
        # A new part is empty.
        if found := real(descriptor, size, at):
            raise OSError(errno.EIO, f"{len(found)} bytes")
        return found

    monkeypatch.setattr(os, "pread", pread)
    monkeypatch.setattr(stubs, "_pread", lambda descriptor, start, end: real(descriptor, end - start, start))
    assert fetch(source, store) == WHOLE
    assert_only_what_it_is_called(store)


def test_a_part_longer_than_its_file_is_no_part_of_it(source: Scripted, store: ModelStore) -> None:
    store.prepare()
    pinned = source.pin()
    for listed in pinned.files or ():
        store.part(f"sha256-{listed.sha256}").write_bytes((SFT / listed.name).read_bytes() + b"more")
    assert fetch(source, store) == 0
    assert_only_what_it_is_called(store)


def test_a_process_that_is_stopped_is_not_waited_for(
    source: Scripted, store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "FROZEN_S", 0.5)
    source.tell("stall", 2_000_000)
    with start(source, store.folder) as frozen:
        until_stalled(source)
        frozen.process.send_signal(signal.SIGSTOP)
        mine = replace(source, control=tmp_path / "mine")
        assert fetch(mine, store) == SIZE
        stamps = {file: file.stat() for file in blobs(store)}
        source.untell("stall")
        frozen.process.send_signal(signal.SIGCONT)
        assert frozen.outcome()["fetched"] == WHOLE
        assert frozen.end() == 0
    # What it fetched in vain took the place of nothing.
    for file, status in stamps.items():
        now = file.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_ctime_ns) == (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    assert list((store.folder / "parts").iterdir()) == []
    assert_only_what_it_is_called(store)


def test_who_waits_can_be_cancelled(source: Scripted, store: ModelStore) -> None:
    source.tell("stall", 2_000_000)
    with start(source, store.folder):
        until_stalled(source)
        cancelled = threading.Event()
        asked: list[float] = []

        def watch(report: Progress) -> None:
            if report.done > 1_000_000 and not asked:
                asked.append(time.monotonic())
                cancelled.set()

        with pytest.raises(Cancelled):
            fetch(source, store, progress=watch, cancelled=cancelled.is_set)
        assert time.monotonic() - asked[0] < 2


def test_what_another_process_uses_stays_until_it_is_killed(
    source: Scripted, other: Scripted, store: ModelStore
) -> None:
    small = ModelStore(store.folder, most_bytes=MOST)
    with start(source, store.folder) as user:
        assert user.outcome()["fetched"] == WHOLE
        with pytest.raises(ModelStoreFull):
            fetch(other, small)
        assert other.reads(WEIGHTS) == []
        assert fetch(source, small) == 0
        user.kill()
    assert fetch(other, small) == SIZE
    assert fetch(source, small) == SIZE


def test_what_a_killed_process_left_makes_room(source: Scripted, other: Scripted, store: ModelStore) -> None:
    small = ModelStore(store.folder, most_bytes=MOST)
    source.tell("stall", 2_000_000)
    with start(source, store.folder, most_bytes=MOST) as killed:
        until_stalled(source)
        with pytest.raises(ModelStoreFull):
            fetch(other, small)
        killed.kill()
    fetch(other, small)
    assert list((store.folder / "parts").iterdir()) == []


def test_files_in_another_order_are_waited_for_without_end_by_nobody(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The other source is asked for a byte of each file.
    monkeypatch.setattr(parts, "SAMPLE", 1)
    make_sound(tmp_path)
    first, second = tmp_path / "shards", tmp_path / "swapped"
    shutil.copytree(first, second)
    one, two = sorted(file.name for file in first.glob("*.safetensors"))
    (second / one).write_bytes((first / two).read_bytes())
    (second / two).write_bytes((first / one).read_bytes())
    sources = [Scripted(folder, tmp_path / "control") for folder in (first, second)]
    sources[0].tell("slow", 0.01)
    with ThreadPoolExecutor(6) as threads:
        jobs = [
            threads.submit(fetch, sources[number % 2], store, streams=1 + number % 3, deadline=time.monotonic() + 60)
            for number in range(6)
        ]
        fetched = sum(job.result() for job in jobs)
    whole = sum(file.stat().st_size for file in first.iterdir())
    assert whole <= fetched <= whole + len(jobs) * len((one, two))
    assert_only_what_it_is_called(store)


def until_sent(source: Scripted, goal: int) -> None:
    until(lambda: source.read_bytes() > goal, f"{goal} bytes to be sent")


@pytest.fixture
def killed_at_random(source: Scripted, store: ModelStore) -> None:
    """Processes that fetched at once and were killed at some byte each."""
    rest = random.Random(3)
    source.tell("slow", 0.002)
    with ExitStack() as stack:
        running = [stack.enter_context(start(source, store.folder)) for _ in range(3)]
        for gathering in running:
            until_sent(source, source.read_bytes() + rest.randrange(200_000, 900_000))
            gathering.kill()
    source.untell("slow")


def test_whoever_dies_whenever_leaves_nothing_false(
    killed_at_random: None, source: Scripted, store: ModelStore
) -> None:
    before = source.read_bytes()
    fetched = fetch(source, store)
    assert_only_what_it_is_called(store)
    # A piece that was sent and not written is sent again.
    assert before + fetched <= WHOLE + 3 * 4 * source.piece
    assert len(blobs(store)) == len(os.listdir(SFT))
