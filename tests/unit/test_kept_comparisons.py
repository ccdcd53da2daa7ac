"""Kept comparisons: found under their own content, names and conditions, and never damaged."""

import errno
import multiprocessing
import os
import random
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path

import pytest

from spinal.cache import SUMS, Comparisons, open_comparisons
from spinal.cache import comparisons as kept_comparisons
from spinal.cache.comparisons import COMPARISON
from spinal.documents.comparison import Comparison, ComparisonContent
from tests.support.fabricated import changed_pair

CPU = {"device": "cpu", "torch": "2.13.0"}
SAID = ["local:sft", None, "local:checkpoint-40", None, "prompts.txt"]


def opened(folder: Path, conditions: dict[str, str] = CPU, **options: int) -> AbstractContextManager[Comparisons]:
    return nullcontext(Comparisons(folder, lambda: conditions, **options))


@pytest.fixture(scope="module")
def judged() -> Comparison:
    return changed_pair().compare()


def test_what_was_kept_is_found_without_a_verdict(tmp_path: Path, judged: Comparison) -> None:
    with opened(tmp_path) as cache:
        assert cache.find(judged.digest, SAID) is None
        cache.keep(judged, SAID)
    with opened(tmp_path) as cache:
        found = cache.find(judged.digest, SAID)
    assert type(found) is ComparisonContent
    assert Comparison.of(found, judged.verdict) == judged


@pytest.mark.parametrize("conditions", [{"device": "cuda:0"}, {"torch": "2.14.0"}, {"threads": "2"}])
def test_one_measured_under_other_conditions_is_another(
    tmp_path: Path, judged: Comparison, conditions: dict[str, str]
) -> None:
    with opened(tmp_path, CPU | conditions) as cache:
        cache.keep(judged, SAID)
    with opened(tmp_path) as cache:
        assert cache.find(judged.digest, SAID) is None


def test_one_that_calls_its_sides_otherwise_is_another(tmp_path: Path, judged: Comparison) -> None:
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
        assert cache.find(judged.digest, [*SAID[:2], "local:checkpoint-50", *SAID[3:]]) is None


def test_an_analysis_that_is_being_worked_on_is_not_answered_with_what_it_found_before(
    tmp_path: Path, judged: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
        monkeypatch.setattr(kept_comparisons, "scorer_files", lambda: "other")
        assert cache.find(judged.digest, SAID) is None


@pytest.mark.parametrize("name", [COMPARISON, SUMS])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_one_is_removed_and_makes_room_for_a_sound_one(
    tmp_path: Path, judged: Comparison, name: str, damage: str
) -> None:
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
    (entry,) = tmp_path.iterdir()
    raw = bytearray((entry / name).read_bytes())
    if damage == "gone":
        (entry / name).unlink()
    elif damage == "cut":
        (entry / name).write_bytes(raw[: len(raw) // 2])
    else:
        raw[len(raw) // 3] ^= 1
        (entry / name).write_bytes(raw)
    with opened(tmp_path) as cache:
        assert cache.find(judged.digest, SAID) is None
        assert list(tmp_path.iterdir()) == []
        cache.keep(judged, SAID)
        assert cache.find(judged.digest, SAID) is not None


def test_one_under_a_digest_that_is_not_its_own_is_not_found(tmp_path: Path, judged: Comparison) -> None:
    other = "0" * 64
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
    (entry,) = tmp_path.iterdir()
    entry.rename(tmp_path / entry.name.replace(judged.digest, other))
    with opened(tmp_path) as cache:
        assert cache.find(other, SAID) is None


def test_beyond_the_limit_the_oldest_goes(tmp_path: Path, judged: Comparison) -> None:
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
    size = sum(file.stat().st_size for entry in tmp_path.iterdir() for file in entry.iterdir())
    with opened(tmp_path, max_bytes=size + size // 2) as cache:
        cache.keep(judged, ["other"])
    with opened(tmp_path) as cache:
        assert cache.find(judged.digest, SAID) is None
        assert cache.find(judged.digest, ["other"]) is not None


def test_no_file_stays_open_however_many_are_found(tmp_path: Path, judged: Comparison) -> None:
    """A run may have more checkpoints than a process may have files."""
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
        assert cache.find(judged.digest, SAID) is not None
    open_ones = []
    for entry in Path("/proc/self/fd").iterdir():
        # One of them is that of the listing itself, which is over.
        with suppress(OSError):
            open_ones.append(str(entry.readlink()))
    assert not [path for path in open_ones if path.startswith(str(tmp_path))]


def test_a_full_disk_keeps_nothing_and_loses_nothing(
    tmp_path: Path, judged: Comparison, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with opened(tmp_path) as cache:
        cache.keep(judged, SAID)
        assert cache.find(judged.digest, SAID) is None
    assert "a comparison is not kept: [Errno 28]" in caplog.text


def _use_at_random(folder: Path, seed: int, limit: int) -> None:
    """Find or keep one of three, again and again, and damage some."""
    generator = random.Random(seed)
    made = changed_pair().compare()
    for _ in range(25):
        said = [generator.choice("abc")]
        with opened(folder, max_bytes=limit) as cache:
            found = cache.find(made.digest, said)
            assert found is None or Comparison.of(found, made.verdict) == made
            if found is None:
                cache.keep(made, said)
            elif generator.random() < 0.2:
                for sums in folder.glob(f"{made.digest}-*/{SUMS}"):
                    sums.write_text("damaged")
    sys.exit(0)


def test_processes_at_once_each_find_what_was_kept_whole(tmp_path: Path, judged: Comparison) -> None:
    folder = tmp_path / "cache"
    with opened(folder) as cache:
        cache.keep(judged, ["a"])
    size = sum(file.stat().st_size for entry in folder.iterdir() for file in entry.iterdir())
    context = multiprocessing.get_context("spawn")
    children = [context.Process(target=_use_at_random, args=(folder, seed, 2 * size)) for seed in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    assert not [one.name for one in folder.iterdir() if one.name.startswith(("new-", "gone-"))]


def test_without_a_place_for_them_there_are_none_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with open_comparisons(lambda: CPU, tmp_path / "file" / "below") as cache:
        assert cache is None
    assert "comparisons are not kept" in caplog.text
