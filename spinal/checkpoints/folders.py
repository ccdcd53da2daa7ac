"""From ``local:runs/a/checkpoint-*`` to the checkpoints of a training run, each with its step."""

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path, PurePosixPath

from spinal.checkpoints.sources.local import require_roots
from spinal.errors import ModelNotFound, ModelPathRefused, ModelReferenceInvalid, SeriesFolderInvalid
from spinal.errors.faults import shown

SCHEME = "local:"
DEFAULT = "checkpoint-*"
"""What is looked for in a folder that is named without a pattern, as the Hugging Face Trainer names them."""
MOST_CHECKPOINTS = 100
"""Of one request: each is looked at before it is answered."""
MOST_ENTRIES = 10_000
"""Of a folder that is looked through."""
MOST_STEP = 2**53 - 1
"""What every reader of JSON takes."""
TRAILING = re.compile(r"([0-9]{1,19})$")
WILD = "*?["
HINT = "name the folders checkpoint-1, checkpoint-2, ... or send members with their steps"


@dataclass(frozen=True)
class Step:
    """A checkpoint, and the training step at which it was saved."""

    step: int
    reference: str


def expand_folder(pattern: str, roots: Sequence[Path], *, most: int = MOST_CHECKPOINTS) -> list[Step]:
    """The folders that match ``pattern``, by step, which is the number at the end of a folder's name.

    ``pattern`` is ``local:PATH`` with wildcards (``*``, ``?``) in its last part alone, or a folder, in which
    ``checkpoint-*`` is meant. A relative path is looked for below each root, the first that has the folder counts. What
    matches is not looked into.

    Raises ModelReferenceInvalid for other forms, ModelPathRefused for what lies outside the roots, ModelNotFound where
    there is no such folder, SeriesFolderInvalid where nothing or more than ``most`` match, or a step is missing or
    there twice.
    """
    parent, last = _parts(pattern)
    folder, prefix = _below(parent, roots)
    matched = _matching(folder, last)
    if not matched:
        raise SeriesFolderInvalid(f"no folder matches {shown(pattern)}", hint=HINT)
    if len(matched) > most:
        raise SeriesFolderInvalid(
            f"{len(matched)} folders match {shown(pattern)}, and {most} are allowed at once",
            hint="narrow the pattern and send several requests: checkpoint-?00, checkpoint-?500",
        )
    found: dict[int, str] = {}
    for name in sorted(matched):
        number = TRAILING.search(name)
        if number is None or int(number[1]) > MOST_STEP:
            raise SeriesFolderInvalid(f"{shown(name)} does not end with the number of its step", hint=HINT)
        if not name.isprintable():
            raise SeriesFolderInvalid(
                f"{shown(name)} holds characters that cannot be printed", hint="rename the folder"
            )
        if (step := int(number[1])) in found:
            raise SeriesFolderInvalid(f"{shown(found[step])} and {shown(name)} are both step {step}", hint=HINT)
        found[step] = name
    return [Step(step, f"{SCHEME}{prefix / found[step]}") for step in sorted(found)]


def _parts(pattern: str) -> tuple[str, str]:
    """The folder to look through, and what to look for."""
    scheme, colon, path = pattern.partition(":")
    if not colon or f"{scheme}:" != SCHEME or not path.strip("/"):
        raise ModelReferenceInvalid(
            f"{shown(pattern)} is no folder of checkpoints", hint=f"for example {SCHEME}runs/a/{DEFAULT}"
        )
    parent, _, last = path.rstrip("/").rpartition("/")
    if any(sign in parent for sign in WILD):
        raise ModelReferenceInvalid(
            f"{shown(pattern)} has a wildcard before its last part", hint=f"for example {SCHEME}runs/a/{DEFAULT}"
        )
    if any(sign in last for sign in WILD):
        return (parent or ("/" if path.startswith("/") else "."), last)
    return path, DEFAULT


def _below(path: str, roots: Sequence[Path]) -> tuple[Path, PurePosixPath]:
    """The folder ``path`` below the first root that has it, and what it is called from there. What lies outside the
    roots is refused without looking, as in ``sources/local.py``."""
    require_roots(roots)
    inside = False
    for root in (Path(root).resolve() for root in roots):
        try:
            target = (root / path).resolve()
            if not target.is_relative_to(root):
                continue
            inside = True
            if target.is_dir():
                return target, PurePosixPath(target.relative_to(root).as_posix())
        except (OSError, RuntimeError, ValueError):
            # Too long a name, a loop of links.
            inside = True
    if inside:
        raise ModelNotFound(f"no folder {SCHEME}{shown(path)} below the model roots", hint="check the name")
    raise ModelPathRefused(
        f"{SCHEME}{shown(path)} does not lie below the model roots", hint="use a path relative to a model root"
    )


def _matching(folder: Path, pattern: str) -> list[str]:
    wanted = re.compile(translate(pattern))
    names = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MOST_ENTRIES:
                raise SeriesFolderInvalid(
                    f"{shown(folder.name)} holds more than {MOST_ENTRIES} files and folders",
                    hint="keep the checkpoints of one run in a folder of their own",
                )
            if wanted.match(entry.name) and _is_folder(entry):
                names.append(entry.name)
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # A link that leads to itself is nothing, as one that leads nowhere.
        return False
