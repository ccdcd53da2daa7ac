"""Kept traces: whole or absent, verified, bounded, never taken from whoever uses them, never of other conditions."""

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from spinal.audit import Traced
from spinal.cache import CAPTURE, LOCK, SUMS, TRACE, UNSURE_S, Cache, cache_folder, open_cache
from spinal.documents.capture import capture_tensors, load_capture
from spinal.documents.trace import Trace
from tests.support import fabricated
from tests.support.waiting import until

CPU = {"device": "cpu", "torch": "2.13.0"}


def opened(folder: Path, conditions: dict[str, str] = CPU, **options: int) -> Cache:
    return Cache(folder, lambda: conditions, **options)


def written(cache: Cache, trace: Trace) -> Path:
    """The trace's capture at a place of the cache, not yet kept."""
    path = cache.place()
    arrays, metadata = capture_tensors(fabricated.capture(trace, trace.prompt_set.count, seed=1))
    save_file(arrays, path, metadata)
    return path


def keep(cache: Cache, trace: Trace) -> Traced:
    return cache.keep(trace, written(cache, trace))


def named(trace: Trace) -> Callable[[], str]:
    return lambda: trace.digest


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def one() -> Trace:
    return fabricated.trace("sft", 4, 8)


def test_what_was_kept_is_found_with_its_capture(tmp_path: Path, one: Trace) -> None:
    with opened(tmp_path) as cache:
        assert cache.find(lambda: one.digest) is None
        keep(cache, one)
    with opened(tmp_path) as cache:
        found = cache.find(lambda: one.digest)
        assert found is not None
        assert found.trace == one
        assert load_capture(found.capture).trace_digest == one.digest


@pytest.mark.parametrize("change", [{"device": "cuda:0"}, {"torch": "2.14.0"}, {"threads": "2"}])
def test_a_trace_measured_under_other_conditions_is_another(tmp_path: Path, one: Trace, change: dict[str, str]) -> None:
    with opened(tmp_path, CPU | change) as cache:
        keep(cache, one)
    with opened(tmp_path) as cache:
        assert cache.find(lambda: one.digest) is None
        keep(cache, one)
    assert len(entries(tmp_path)) == 2


def test_a_document_finds_the_capture_of_its_own_measurement_whatever_the_conditions(
    tmp_path: Path, one: Trace
) -> None:
    named_otherwise = one.model_copy(
        update={
            "model": one.model.model_copy(update={"source": "local:other", "revision": "r"}),
            "prompt_set": one.prompt_set.model_copy(update={"name": "other"}),
            "provenance": one.provenance.model_copy(update={"hostname": "other"}),
        }
    )
    readout = one.model_copy(update={"model": one.model.model_copy(update={"readout_digest": fabricated.sha("x")})})
    moved = one.layers[1].positions["all"].model_copy(update={"transport": 0.25})
    layer = one.layers[1].model_copy(update={"positions": {**one.layers[1].positions, "all": moved}})
    elsewhere = one.model_copy(update={"layers": (one.layers[0], layer, *one.layers[2:])})
    with opened(tmp_path, {"device": "cuda:0"}) as cache:
        keep(cache, one)
    with opened(tmp_path) as cache:
        found = cache.find_document(one)
        assert found is not None
        assert found.trace is one
        assert cache.find_document(named_otherwise) is not None
        assert cache.find_document(elsewhere) is None, "another device's capture under the same digest"
        assert cache.find_document(readout) is None
        assert cache.find_document(fabricated.trace("dpo", 4, 8)) is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, damage) for name in (TRACE, CAPTURE, SUMS) for damage in ("flipped", "cut", "gone")), (LOCK, "gone")],
)
def test_a_damaged_entry_is_removed_and_makes_room_for_a_sound_one(
    tmp_path: Path, one: Trace, name: str, damage: str
) -> None:
    with opened(tmp_path) as cache:
        keep(cache, one)
    (entry,) = tmp_path.iterdir()
    raw = bytearray((entry / name).read_bytes())
    if damage == "gone":
        (entry / name).unlink()
    else:
        if damage == "flipped":
            raw[len(raw) // 3] ^= 1
        (entry / name).write_bytes(raw if damage == "flipped" else raw[: len(raw) // 2])
    with opened(tmp_path) as cache:
        assert cache.find(lambda: one.digest) is None
        assert entries(tmp_path) == []
        keep(cache, one)
    with opened(tmp_path) as cache:
        assert cache.find(lambda: one.digest) is not None


def test_an_entry_under_a_name_that_is_not_its_own_is_not_found(tmp_path: Path, one: Trace) -> None:
    other = fabricated.trace("dpo", 4, 8)
    with opened(tmp_path) as cache:
        keep(cache, one)
    (entry,) = tmp_path.iterdir()
    entry.rename(tmp_path / entry.name.replace(one.digest, other.digest))
    with opened(tmp_path) as cache:
        assert cache.find(lambda: other.digest) is None


def test_what_is_not_kept_goes_with_its_context(tmp_path: Path, one: Trace) -> None:
    with opened(tmp_path) as cache:
        path = written(cache, one)
        assert cache.find(lambda: one.digest) is None, "an entry that is not finished is not there"
    assert not path.exists()
    assert entries(tmp_path) == []


def test_beyond_the_limit_the_entry_used_longest_ago_goes_first(tmp_path: Path) -> None:
    traces = [fabricated.trace(name, 4, 8) for name in ("a", "b", "c")]
    for age, trace in enumerate(traces[:2]):
        with opened(tmp_path) as cache:
            kept = keep(cache, trace)
        os.utime(kept.capture.parent, (1000 + age, 1000 + age))
    size = sum(file.stat().st_size for file in kept.capture.parent.iterdir())
    with opened(tmp_path) as cache:
        assert cache.find(lambda: traces[0].digest) is not None, "used: now the youngest of the two"
    with opened(tmp_path, max_bytes=2 * size + size // 2) as cache:
        keep(cache, traces[2])
    with opened(tmp_path) as cache:
        left = [cache.find(named(trace)) is not None for trace in traces]
    assert left == [True, False, True]


def test_an_entry_in_use_stays_however_little_room_there_is(tmp_path: Path) -> None:
    first, second = fabricated.trace("a", 4, 8), fabricated.trace("b", 4, 8)
    with opened(tmp_path) as cache:
        keep(cache, first)
    with opened(tmp_path) as reading, opened(tmp_path, max_bytes=1) as writing:
        found = reading.find(lambda: first.digest)
        assert found is not None
        mine = keep(writing, second)
        assert load_capture(found.capture).trace_digest == first.digest
        assert load_capture(mine.capture).trace_digest == second.digest
    with opened(tmp_path, max_bytes=1) as cache:
        keep(cache, fabricated.trace("c", 4, 8))
        assert len(entries(tmp_path)) == 1


def test_of_two_that_measured_the_same_both_have_it_and_one_entry_stays(tmp_path: Path, one: Trace) -> None:
    with opened(tmp_path) as first, opened(tmp_path) as second:
        paths = written(first, one), written(second, one)
        kept = first.keep(one, paths[0]), second.keep(one, paths[1])
        for each in kept:
            assert load_capture(each.capture).trace_digest == one.digest
    assert len(entries(tmp_path)) == 1


def _killed_while_writing(folder: Path, ready: str) -> None:
    cache = opened(folder)
    cache.place().write_bytes(b"half a capture")
    Path(ready).touch()
    signal.pause()


def test_what_a_killed_process_was_writing_is_never_found_and_is_swept_later(tmp_path: Path, one: Trace) -> None:
    folder, ready = tmp_path / "cache", tmp_path / "ready"
    child = multiprocessing.get_context("spawn").Process(target=_killed_while_writing, args=(folder, str(ready)))
    child.start()
    until(ready.exists, "the child to write")
    (unfinished,) = folder.iterdir()
    os.utime(unfinished, (1000, 1000))
    with opened(folder) as cache:
        keep(cache, one)
        assert unfinished.exists(), "its process lives"
    child.kill()
    child.join()
    os.utime(unfinished, (1000, 1000))
    with opened(folder) as cache:
        keep(cache, fabricated.trace("dpo", 4, 8))
        assert not unfinished.exists()
        assert cache.find(lambda: one.digest) is not None


def test_a_removal_that_was_cut_off_is_finished_later(tmp_path: Path, one: Trace) -> None:
    left = [tmp_path / "gone-half", tmp_path / "new-half"]
    for folder in left:
        folder.mkdir()
        (folder / CAPTURE).touch()
        os.utime(folder, (1000, 1000))
    young = tmp_path / "new-young"
    young.mkdir()
    with opened(tmp_path) as cache:
        keep(cache, one)
    assert [folder.exists() for folder in left] == [False, False]
    assert young.exists(), f"it may be without its lock for up to {UNSURE_S} s"


def _use_at_random(folder: Path, seed: int, limit: int, rounds: int) -> None:
    """Find or keep one of four traces, again and again, and read what came of it."""
    generator = random.Random(seed)
    traces = [fabricated.trace(name, 4, 8) for name in "abcd"]
    for _ in range(rounds):
        with opened(folder, max_bytes=limit) as cache:
            for trace in generator.sample(traces, 2):
                found = cache.find(named(trace)) or keep(cache, trace)
                if generator.random() < 0.2 and found.capture.parent.name.startswith(trace.digest):
                    (found.capture.parent / SUMS).write_text("damaged")
                assert found.trace == trace
                assert load_capture(found.capture).trace_digest == trace.digest
    sys.exit(0)


def test_processes_at_once_each_read_what_belongs_to_the_digest(tmp_path: Path, one: Trace) -> None:
    folder = tmp_path / "cache"
    with opened(folder) as cache:
        kept = keep(cache, one)
        size = sum(file.stat().st_size for file in kept.capture.parent.iterdir())
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_use_at_random, args=(folder, seed, 2 * size, 40)) for seed in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert not [name for name in entries(folder) if name.startswith(("new-", "gone-"))]


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "spinal" / "traces"
    monkeypatch.setenv("HOME", "/home/someone")
    for not_absolute in ("", "here"):
        monkeypatch.setenv("XDG_CACHE_HOME", not_absolute)
        assert cache_folder() == Path("/home/someone/.cache/spinal/traces")


def test_without_a_place_for_it_there_is_no_cache_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with open_cache(lambda: CPU, tmp_path / "file" / "below") as cache:
        assert cache is None
    assert "traces are not kept" in caplog.text


def test_kept_traces_are_the_users_own(tmp_path: Path) -> None:
    with open_cache(lambda: CPU, tmp_path / "cache"):
        assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_a_full_disk_keeps_nothing_and_loses_nothing(
    tmp_path: Path, one: Trace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as cache:
        path = written(cache, one)
        monkeypatch.setattr(Path, "write_bytes", full)
        kept = cache.keep(one, path)
        assert load_capture(kept.capture).trace_digest == one.digest
    assert "is not kept" in caplog.text
    assert entries(tmp_path) == []
