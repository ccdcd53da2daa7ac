"""What was found sound is read again when it changes, and only then."""

import os
import shutil
from pathlib import Path

import pytest

from spinal import checkpoint, unchanged
from spinal.checkpoint import check_pair, inspect, resolve_reference
from spinal.errors import ModelNotFound, TokenizerInvalid, TokenizerMismatch, WeightsCorrupt, WeightsMissing
from spinal.unchanged import Unchanged, state_of
from tests.conftest import EXAMPLES


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
    read = checkpoint._read_tokenizer

    def counted(of: checkpoint.Checkpoint) -> dict[str, object]:
        seen.append(of.path.name)
        return read(of)

    monkeypatch.setattr(checkpoint, "_read_tokenizer", counted)
    return seen


def look(folder: Path) -> None:
    inspect(resolve_reference(str(folder), roots=None))


def swap(path: Path, old: bytes, new: bytes) -> None:
    """Another content of the same length, and the old time of change."""
    before, content = path.stat(), path.read_bytes()
    assert len(old) == len(new)
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


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


def test_what_changed_a_moment_ago_is_read_again(folder: Path, readings: list[str]) -> None:
    look(folder)
    look(folder)
    assert readings == ["model", "model"]


@pytest.mark.usefixtures("settled")
def test_tokenizers_of_a_pair_are_compared_once_and_again_when_one_changes(
    folder: Path, tmp_path: Path, readings: list[str]
) -> None:
    twin = Path(shutil.copytree(folder, tmp_path / "twin"))
    one, other = (resolve_reference(str(path), roots=None) for path in (folder, twin))
    check_pair(one, other)
    check_pair(one, other)
    assert readings == ["model", "twin"]
    swap(twin / "tokenizer.json", b'"version"', b'"vershun"')
    for _ in range(2):
        with pytest.raises(TokenizerMismatch, match="version"):
            check_pair(one, other)


@pytest.mark.usefixtures("settled")
def test_it_remembers_the_latest_of_what_it_may(tmp_path: Path) -> None:
    files = [tmp_path / str(number) for number in range(3)]
    for file in files:
        file.touch()
    states = [state_of(file) for file in files]
    known = Unchanged(2)
    known.remember(states[0])
    known.remember(states[1])
    assert known.passed(states[0])
    known.remember(states[2])
    assert [known.passed(state) for state in states] == [True, False, True]
