"""From a pattern to the checkpoints of a run: what matches, how it is called, and what is refused."""

from pathlib import Path

import pytest

from spinal.checkpoints import folders
from spinal.checkpoints.folders import MOST_STEP, Step, expand_folder
from spinal.checkpoints.resolve import resolve_reference
from spinal.errors import ModelNotFound, ModelPathRefused, ModelReferenceInvalid, NoModelRoots, SeriesFolderInvalid


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    for name in ("checkpoint-20", "checkpoint-9", "checkpoint-100", "final", "tmp-checkpoint-7"):
        (root / "runs" / "a" / name).mkdir(parents=True)
    (root / "runs" / "a" / "checkpoint-5").write_text("a file")
    return root


def steps(pattern: str, *roots: Path, most: int = 100) -> list[tuple[int, str]]:
    return [(each.step, each.reference) for each in expand_folder(pattern, roots, most=most)]


ALL = [(9, "local:runs/a/checkpoint-9"), (20, "local:runs/a/checkpoint-20"), (100, "local:runs/a/checkpoint-100")]


@pytest.mark.parametrize(
    "pattern", ["local:runs/a/checkpoint-*", "local:runs/a", "local:runs/a/", "local:runs/a/c*-[0-9]*"]
)
def test_folders_are_in_the_order_of_their_steps_and_named_from_the_root(root: Path, pattern: str) -> None:
    assert steps(pattern, root) == ALL


def test_an_absolute_path_below_a_root_is_named_from_the_root(root: Path) -> None:
    assert steps(f"local:{root}/runs/a/checkpoint-?", root) == ALL[:1]


def test_the_first_root_that_has_the_folder_counts(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "runs" / "a" / "checkpoint-1").mkdir(parents=True)
    assert steps("local:runs/a", tmp_path / "none", root, other) == ALL
    assert steps("local:runs/a", other, root) == [(1, "local:runs/a/checkpoint-1")]


def test_a_root_may_hold_the_checkpoints_itself(root: Path) -> None:
    (root / "step3").mkdir()
    assert expand_folder("local:step*", [root]) == [Step(3, "local:step3")]


@pytest.mark.parametrize(
    "pattern", ["local:", "local:/", "runs/a", "hub:runs/a", "local:*/checkpoint-*", "local:r?ns/a"]
)
def test_what_is_no_pattern_is_refused(root: Path, pattern: str) -> None:
    with pytest.raises(ModelReferenceInvalid):
        expand_folder(pattern, [root])


def test_what_lies_outside_the_roots_is_refused_without_a_look(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside" / "checkpoint-1").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path / "outside")
    for pattern in (
        "local:../outside/checkpoint-*",
        f"local:{tmp_path}/outside",
        "local:out/checkpoint-*",
        "local:../no",
    ):
        with pytest.raises(ModelPathRefused):
            expand_folder(pattern, [root])


def test_without_any_root_nobody_is_told_to_name_another_path(tmp_path: Path) -> None:
    for look in (lambda: expand_folder("local:runs/a", []), lambda: resolve_reference("local:runs/a", roots=[])):
        with pytest.raises(NoModelRoots) as caught:
            look()
        assert "SPINAL_MODEL_ROOTS" in (caught.value.hint or "")


def test_a_folder_that_is_not_there_is_not_found(root: Path) -> None:
    for pattern in ("local:runs/b/checkpoint-*", "local:runs/a/checkpoint-5", f"local:{'x' * 300}"):
        with pytest.raises(ModelNotFound):
            expand_folder(pattern, [root])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "no folder matches"),
        (("x-last",), "does not end with the number"),
        (("x-1", "x-01"), "are both step 1"),
        ((f"x-{MOST_STEP + 1}",), "does not end with the number"),
        (("x-1\n2",), "cannot be printed"),
        (("x-1", "x-2", "x-3", "x-4"), "4 folders match"),
        (("x-١",), "does not end with the number"),
    ],
)
def test_a_folder_that_gives_no_steps_says_why(root: Path, names: tuple[str, ...], says: str) -> None:
    for name in names:
        (root / "runs" / name).mkdir()
    with pytest.raises(SeriesFolderInvalid, match=says):
        expand_folder("local:runs/x-*", [root], most=3)


def test_as_many_as_are_allowed_are_taken(root: Path) -> None:
    assert steps("local:runs/a", root, most=3) == ALL
    (root / "runs" / f"x-{MOST_STEP}").mkdir()
    assert steps("local:runs/x-*", root)[0][0] == MOST_STEP


def test_a_large_folder_is_not_looked_through(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "MOST_ENTRIES", 6)
    assert steps("local:runs/a", root) == ALL
    monkeypatch.setattr(folders, "MOST_ENTRIES", 5)
    with pytest.raises(SeriesFolderInvalid, match="more than 5"):
        expand_folder("local:runs/a", [root])


def test_links_that_lead_nowhere_are_no_checkpoints_and_no_failure_of_the_disk(root: Path) -> None:
    here = root / "runs" / "a"
    (here / "checkpoint-31").symlink_to("checkpoint-31")
    (here / "checkpoint-32").symlink_to("none")
    assert steps("local:runs/a", root) == ALL
