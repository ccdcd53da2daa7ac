"""Which checkpoint of a training run was saved at which step, from what a caller names."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from spinal.checkpoints.sources.reach import is_elsewhere
from spinal.errors import ModelNotFound, UsageError
from spinal.sides import PathName

Checkpoints = PathName | Sequence[PathName] | Mapping[int, PathName]
"""A folder of ``checkpoint-N``, checkpoints one by one, or checkpoints by their step."""

IN_A_FOLDER = re.compile(r"checkpoint-(\d+)")
"""Folders that the Hugging Face trainer saves to."""
WITH_STEP = re.compile(r"(\d+)=(.+)", re.DOTALL)
TRAILING = re.compile(r"(\d+)$")
LARGEST = 10**15
"""Beyond this a step is no step: a document's digest holds whole numbers below 2**53."""
CONFIGURATIONS = ("config.json", "adapter_config.json")
BY_HAND = "name each one with its step, for example 40=runs/a/checkpoint-40"


@dataclass(frozen=True)
class Place:
    """One checkpoint of a run, as it was named."""

    step: int
    path: str

    @property
    def name(self) -> str:
        """What it is called where it could not be read; no path of this machine."""
        return self.path if is_elsewhere(self.path) else f"local:{Path(self.path.removeprefix('local:')).name}"


@dataclass(frozen=True)
class Places:
    """The checkpoints of a run by step, and what a reader has to know of how they were found."""

    members: tuple[Place, ...]
    remarks: tuple[str, ...] = ()


def find_places(checkpoints: Checkpoints) -> Places:
    """The checkpoints in the order of their steps: those in a folder of ``checkpoint-N``, or those named one by one,
    whose step is the number at the end of their name or stands before it (``40=PATH``), as it does of those that live
    elsewhere (``40=hf:org/name@revision``).

    Only names are read. Raises UsageError where there are none, one has no step, or two have the same, and
    ModelNotFound where one is not there.

    Examples
    --------
    >>> found = find_places({20: "examples/checkpoints/sft", 10: "examples/checkpoints/dpo-short"})
    >>> [(one.step, one.path) for one in found.members]
    [(10, 'examples/checkpoints/dpo-short'), (20, 'examples/checkpoints/sft')]
    """
    found: list[Place] = []
    remarks: list[str] = []
    for step, path in _named(checkpoints):
        if step is not None:
            found.append(Place(_fitting(step, path), path))
            continue
        inside = [] if is_elsewhere(path) else _saved_in(path)
        found += inside or [Place(_trailing(path), path)]
        if inside and _is_checkpoint(path):
            remarks.append(
                f"{Path(path).name} holds a model of its own beside its checkpoints, which is no member: its step is "
                "not known"
            )
    if not found:
        raise UsageError("a series of no checkpoint", hint="name a folder that holds checkpoint-N, or checkpoints")
    ordered = sorted(found, key=lambda one: one.step)
    for before, after in pairwise(ordered):
        if before.step == after.step:
            raise UsageError(f"two checkpoints have step {after.step}: {before.path} and {after.path}", hint=BY_HAND)
    for one in ordered:
        if not is_elsewhere(one.path) and not _is_folder(one.path):
            raise ModelNotFound(f"no checkpoint folder at {one.path} (step {one.step})", hint="check the path")
    return Places(tuple(ordered), tuple(remarks))


def _named(checkpoints: Checkpoints) -> Iterator[tuple[int | None, str]]:
    """Every name that is given, with the step that is given for it."""
    if isinstance(checkpoints, Mapping):
        yield from ((step, os.fspath(path)) for step, path in checkpoints.items())
        return
    for one in [checkpoints] if isinstance(checkpoints, str | os.PathLike) else checkpoints:
        text = os.fspath(one)
        given = WITH_STEP.fullmatch(text)
        # A folder of that very name is meant by it.
        if given is None or _is_folder(text):
            yield None, text
        else:
            yield int(given[1][:20]), given[2]


def _saved_in(path: str) -> list[Place]:
    """The checkpoints that a trainer saved below a folder."""
    folder = _folder(path)
    try:
        names = [one.name for one in folder.iterdir() if IN_A_FOLDER.fullmatch(one.name) and one.is_dir()]
    except (OSError, ValueError):
        return []
    return [Place(_trailing(name), str(folder / name)) for name in names]


def _trailing(path: str) -> int:
    """The step at the end of a checkpoint's name; raises UsageError where there is none."""
    if is_elsewhere(path):
        raise UsageError(f"{path} has no step: what lives elsewhere is given one", hint=f"for example 40={path}")
    name = _folder(path).name
    if _is_folder(path) and not _is_checkpoint(path) and not IN_A_FOLDER.fullmatch(name):
        raise UsageError(
            f"{path} holds no folder checkpoint-N, and is no checkpoint", hint=f"check the path, or {BY_HAND}"
        )
    found = TRAILING.search(name)
    if found is not None:
        return _fitting(int(found[1][:20]), path)
    if not _is_folder(path):
        raise ModelNotFound(f"no checkpoint folder at {path}", hint="check the path")
    raise UsageError(f"{path} has no step: its name does not end in a number", hint=BY_HAND)


def _fitting(step: int, path: str) -> int:
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < LARGEST:
        raise UsageError(f"{path}: {step!r} is no step", hint="a step is a whole number from 0 on")
    return step


def _is_checkpoint(path: str) -> bool:
    folder = _folder(path)
    return any(os.path.lexists(folder / name) for name in CONFIGURATIONS)


def _folder(path: str) -> Path:
    given = Path(path.removeprefix("local:"))
    try:
        return given.expanduser()
    except RuntimeError:
        # There is no such user.
        return given


def _is_folder(path: str) -> bool:
    try:
        return _folder(path).is_dir()
    except (OSError, ValueError):
        # No name of a folder at all, too long a one for example.
        return False
