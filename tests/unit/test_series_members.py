"""Which checkpoint was saved at which step: from names alone, and refused before anything is read."""

from pathlib import Path
from typing import Any

import pytest

from spinal.errors import ModelNotFound, SpinalError, UsageError
from spinal.series_members import find_places


def checkpoint(folder: Path) -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return str(folder)


def steps(given: Any) -> list[int]:
    return [one.step for one in find_places(given).members]


def test_a_folder_of_checkpoints_gives_the_steps_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for step in (1000, 9, 80):
        checkpoint(tmp_path / f"checkpoint-{step}")
    for other in ("tmp-checkpoint-7", "checkpoint-best", "runs"):
        (tmp_path / other).mkdir()
    (tmp_path / "checkpoint-5").touch()
    assert steps(tmp_path) == [9, 80, 1000]
    assert steps([str(tmp_path)]) == steps(f"local:{tmp_path}") == [9, 80, 1000]


def test_checkpoints_one_by_one_have_the_number_at_the_end_of_their_name_or_the_one_that_is_given(
    tmp_path: Path,
) -> None:
    one, other = checkpoint(tmp_path / "checkpoint-0040"), checkpoint(tmp_path / "final")
    assert steps([f"120={other}", one]) == [40, 120]
    assert steps({7: one, 3: Path(other)}) == [3, 7]
    assert steps([one, f"local:{checkpoint(tmp_path / 'step_12')}"]) == [12, 40]


def test_a_checkpoint_inside_a_folder_of_checkpoints_may_be_named_beside_it(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run" / "checkpoint-10")
    last = checkpoint(tmp_path / "last")
    assert steps([str(tmp_path / "run"), f"20={last}"]) == [10, 20]


def test_the_model_that_a_trainer_saves_beside_its_checkpoints_is_no_member_and_that_is_told(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run")
    checkpoint(tmp_path / "run" / "checkpoint-10")
    found = find_places(tmp_path / "run")
    assert [one.step for one in found.members] == [10]
    assert "run holds a model of its own" in found.remarks[0]
    assert find_places([f"11={tmp_path / 'run'}"]).remarks == ()


def _none(folder: Path) -> Any:
    (folder / "empty").mkdir()
    return str(folder / "empty")


def _none_in_a_numbered_one(folder: Path) -> Any:
    (folder / "run-3").mkdir()
    return str(folder / "run-3")


def _no_step(folder: Path) -> Any:
    return checkpoint(folder / "final")


def _twice(folder: Path) -> Any:
    return [checkpoint(folder / "a" / "checkpoint-40"), checkpoint(folder / "b" / "checkpoint-40")]


def _same_twice(folder: Path) -> Any:
    one = checkpoint(folder / "checkpoint-40")
    return [one, one]


def _folder_twice(folder: Path) -> Any:
    checkpoint(folder / "run" / "checkpoint-40")
    return [str(folder / "run"), f"40={checkpoint(folder / 'other')}"]


@pytest.mark.parametrize(
    ("made", "error", "says"),
    [
        (_none, UsageError, "holds no folder checkpoint-N"),
        (_none_in_a_numbered_one, UsageError, "holds no folder checkpoint-N"),
        (_no_step, UsageError, "has no step"),
        (_twice, UsageError, "two checkpoints have step 40"),
        (_same_twice, UsageError, "two checkpoints have step 40"),
        (_folder_twice, UsageError, "two checkpoints have step 40"),
        (lambda folder: [], UsageError, "no checkpoint"),
        (lambda folder: {}, UsageError, "no checkpoint"),
        (lambda folder: str(folder / "nowhere"), ModelNotFound, "no checkpoint folder at"),
        (lambda folder: str(folder / "checkpoint-7"), ModelNotFound, "no checkpoint folder at"),
        (lambda folder: f"7={folder / 'nowhere'}", ModelNotFound, "no checkpoint folder at"),
        (lambda folder: {-1: checkpoint(folder / "x")}, UsageError, "is no step"),
        (lambda folder: {True: checkpoint(folder / "x")}, UsageError, "is no step"),
        (lambda folder: {10**15: checkpoint(folder / "x")}, UsageError, "is no step"),
        (lambda folder: f"{'9' * 400}={checkpoint(folder / 'x')}", UsageError, "is no step"),
        (lambda folder: "x" * 5000, ModelNotFound, "no checkpoint folder at"),
        (lambda folder: "\0", ModelNotFound, "no checkpoint folder at"),
    ],
)
def test_what_has_no_step_of_its_own_is_refused_with_the_next_step(
    tmp_path: Path, made: Any, error: type[SpinalError], says: str
) -> None:
    with pytest.raises(error, match=says) as refused:
        find_places(made(tmp_path))
    assert refused.value.hint
