"""What was found sound is read again when it changes, and only then."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from spinal.checkpoints import held, unchanged
from spinal.checkpoints import tokenizer as tokenizers
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.held import hold
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import prepare_sides
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.unchanged import Unchanged
from spinal.errors import (
    ArchitectureUnsupported,
    ModelChanged,
    ModelNotFound,
    TokenizerInvalid,
    WeightsCorrupt,
    WeightsMissing,
)
from tests.conftest import EXAMPLES
from tests.support.waiting import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "checkpoints" / "sft", tmp_path / "model"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be believed as soon as they are written."""
    monkeypatch.setattr(unchanged, "SETTLED_NS", 0)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every tokenizer that is read, by folder."""
    seen: list[str] = []
    read = tokenizers.read_tokenizer

    def counted(of: Checkpoint) -> dict[str, object]:
        seen.append(of.path.name)
        return read(of)

    monkeypatch.setattr(tokenizers, "read_tokenizer", counted)
    return seen


def look(folder: Path) -> None:
    inspect(resolve_reference(str(folder), roots=None))


def swap(path: Path, old: bytes, new: bytes) -> None:
    """Another content of the same length, and the old time of change."""
    before, content = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))

    def stamped() -> bool:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.stat().st_ctime_ns != before.st_ctime_ns

    # Where the clock of the file system ticks slowly two changes can have one stamp.
    until(stamped, "another time of change")


@pytest.mark.usefixtures("settled")
def test_a_sound_checkpoint_is_read_once(folder: Path, readings: list[str]) -> None:
    look(folder)
    look(folder)
    assert readings == ["model"]


@pytest.mark.usefixtures("settled")
def test_a_change_is_seen_although_size_and_time_are_the_same(folder: Path) -> None:
    look(folder)
    swap(folder / "tokenizer.json", b'"model"', b'"mudel"')
    with pytest.raises(TokenizerInvalid):
        look(folder)
    swap(folder / "tokenizer.json", b'"mudel"', b'"model"')
    look(folder)


@pytest.mark.usefixtures("settled")
def test_a_file_that_goes_or_shrinks_is_missed(folder: Path) -> None:
    look(folder)
    [weights] = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(WeightsCorrupt):
        look(folder)
    weights.unlink()
    with pytest.raises(WeightsMissing):
        look(folder)
    shutil.rmtree(folder)
    with pytest.raises(ModelNotFound):
        look(folder)


def test_what_changed_a_moment_ago_is_read_again(
    folder: Path, readings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "SETTLED_NS", 3_600 * 10**9)
    look(folder)
    look(folder)
    assert readings == ["model", "model"]


@pytest.mark.usefixtures("settled")
def test_tokenizers_of_a_pair_are_read_once_and_again_when_one_changes(
    folder: Path, tmp_path: Path, readings: list[str]
) -> None:
    twin = Path(shutil.copytree(folder, tmp_path / "twin"))
    pair = [resolve_reference(str(path), roots=None) for path in (folder, twin)]
    prepare_sides(pair)
    prepare_sides(pair)
    assert readings == ["model", "twin"]
    swap(twin / "tokenizer.json", b'"model"', b'"mudel"')
    for _ in range(2):
        with pytest.raises(TokenizerInvalid):
            prepare_sides(pair)


@pytest.mark.usefixtures("settled")
def test_a_folder_that_takes_the_place_of_another_meanwhile_is_looked_at_itself(folder: Path, tmp_path: Path) -> None:
    sound = resolve_reference(str(folder), roots=None)
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    swap(other / "config.json", b"ForCausalLM", b"ForCausalXX")
    folder.rename(tmp_path / "old")
    other.rename(folder)
    # Its config was read before, the rest is read now.
    inspect(sound)
    with pytest.raises(ArchitectureUnsupported):
        look(folder)


@pytest.mark.usefixtures("settled")
def test_what_changes_during_the_check_is_checked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = tokenizers.read_tokenizer

    def swapped(of: Checkpoint) -> dict[str, object]:
        found = read(of)
        swap(folder / "tokenizer.json", b'"model"', b'"mudel"')
        return found

    with monkeypatch.context() as patched:
        patched.setattr(tokenizers, "read_tokenizer", swapped)
        look(folder)
    with pytest.raises(TokenizerInvalid):
        look(folder)


@pytest.mark.usefixtures("settled")
def test_it_remembers_the_latest_of_what_it_may(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    known, examined = Unchanged(2), []
    for name in "ababcba":
        known.check(name, lambda: [file], lambda: examined.append(name))  # noqa: B023  called at once
    assert examined == ["a", "b", "c", "a"]


@pytest.mark.usefixtures("settled")
def test_asking_again_makes_it_a_late_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    known, examined = Unchanged(2), []
    for name in "abaca":
        known.check(name, lambda: [file], lambda: examined.append(name))  # noqa: B023  called at once
    assert examined == ["a", "b", "c"]


def test_one_file_that_changed_a_moment_ago_is_enough_to_read_all_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.touch()

    def stamped() -> bool:
        new.touch()
        return new.stat().st_ctime_ns > old.stat().st_ctime_ns

    until(stamped, "a later time of change")
    monkeypatch.setattr(time, "time_ns", lambda: old.stat().st_ctime_ns + unchanged.SETTLED_NS)
    known, examined = Unchanged(2), []
    for files in ([old], [old], [old, new], [old, new]):
        known.check(len(files), lambda: files, lambda: examined.append(len(files)))  # noqa: B023  called at once
    assert examined == [1, 2, 2], "what has been as it is for exactly so long is settled, what changed later is not"


def test_files_that_are_gone_are_never_known(tmp_path: Path) -> None:
    known, examined = Unchanged(2), []
    for _ in range(2):
        known.check(None, lambda: [tmp_path / "gone"], lambda: examined.append(1))
    assert examined == [1, 1]


def test_the_times_of_new_files_decide_until_they_are_hashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "SETTLED_NS", 3_600 * 10**9)
    checkpoint = resolve_reference(str(folder), roots=None)
    with hold(checkpoint) as opened:
        opened.require_unchanged()
    with hold(checkpoint) as opened:
        opened.digest()
        swap(folder / "config.json", b"silu", b"gelu")
        with pytest.raises(ModelChanged):
            opened.require_unchanged()


def test_what_was_held_is_not_held_again_by_descriptors_that_may_be_others(folder: Path) -> None:
    with hold(resolve_reference(str(folder), roots=None)) as opened, hold(opened.checkpoint) as again:
        assert again is opened
    with pytest.raises(ValueError, match="not held any more"), hold(opened.checkpoint):
        pass


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with held.private_folder() as living:
        name = living.name.replace(f"-{os.getpid()}-", f"-{ended.pid}-")
        left = tmp_path / name
        elsewhere = tmp_path / name.replace(held.HELD, f"{held.HELD}1")
        for folder in (left, elsewhere):
            folder.mkdir()
            (folder / "link").symlink_to("nowhere")
        assert held.sweep_held() == [left]
        assert sorted(tmp_path.iterdir()) == sorted([living, elsewhere])
    assert list(tmp_path.iterdir()) == [elsewhere]
