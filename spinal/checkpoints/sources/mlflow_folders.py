"""Where among the artifacts of a registered model its checkpoint lies: MLflow's flavours put it at different places."""

from collections.abc import Sequence
from dataclasses import dataclass

from spinal.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, INDEX, TOKENIZER, WEIGHTS
from spinal.checkpoints.mlflow_server import Folder, Tracking
from spinal.checkpoints.mlmodel import MLMODEL
from spinal.checkpoints.sources.base import Listed, own_files
from spinal.errors import ModelNotFound
from spinal.errors.faults import shown

MARKS = (CONFIG, ADAPTER_CONFIG)
"""One of them lies in the folder of every checkpoint."""
MODEL, COMPONENTS, OF_TOKENIZER, OF_PYFUNC = "model", "components", "components/tokenizer", "artifacts"
"""Where MLflow's flavours put weights, what stands beside them, the tokenizer, and files of one's own."""
NOT_FILLED_IN = frozenset({*MARKS, WEIGHTS, INDEX, ADAPTER_WEIGHTS})
MOST_FOLDERS = 32
"""So many folders below an artifact root are looked into."""


@dataclass(frozen=True)
class Found:
    """The folder of a checkpoint among the artifacts that a server serves."""

    path: str
    files: Folder


def checkpoint_in(tracking: Tracking, top: Found, called: str, deadline: float) -> Found | None:
    """The folder of the checkpoint: the root, ``model``, or the only other one that holds a configuration. Of a
    model with files of its own (pyfunc) these lie a folder further down."""
    if is_checkpoint(top.files):
        return top
    if MODEL in top.files.folders:
        found = Found(f"{top.path}/{MODEL}", tracking.folder(f"{top.path}/{MODEL}", called, deadline))
        if is_checkpoint(found.files):
            return found
    seen = _below(tracking, top, called, deadline, (MODEL, COMPONENTS))
    looked = [each for each in seen if is_checkpoint(each.files)]
    if not looked:
        for each in seen:
            if each.path.endswith(f"/{OF_PYFUNC}"):
                looked += [x for x in _below(tracking, each, called, deadline) if is_checkpoint(x.files)]
    if len(looked) > 1:
        names = ", ".join(shown(each.path.removeprefix(f"{top.path}/")) for each in looked[:5])
        raise ModelNotFound(
            f"{shown(called)} holds more than one checkpoint: {names}", hint="register the folder of one of them"
        )
    return looked[0] if looked else None


def _below(tracking: Tracking, top: Found, called: str, deadline: float, without: tuple[str, ...] = ()) -> list[Found]:
    names = [name for name in top.files.folders if name not in without]
    if len(names) > MOST_FOLDERS:
        raise ModelNotFound(
            f"{shown(called)} has more than {MOST_FOLDERS} folders and no checkpoint at its root",
            hint="register the folder of the checkpoint",
        )
    paths = [f"{top.path}/{name}" for name in names]
    return [Found(path, tracking.folder(path, called, deadline)) for path in paths]


def listed_in(found: Found) -> tuple[Listed, ...]:
    return own_files([Listed(name, size, f"{found.path}/{name}") for name, size in found.files.files.items()])


def lacks_tokenizer(files: Sequence[Listed]) -> bool:
    """Whether a tokenizer that was logged beside the model is its own: an adapter has the one of its base, and a
    tokenizer is not put together from two."""
    names = {each.name for each in files}
    return CONFIG in names and TOKENIZER not in names


def filled_in(files: Sequence[Listed], tokenizer: Sequence[Listed]) -> tuple[Listed, ...]:
    names = {each.name for each in files} | NOT_FILLED_IN
    return own_files([*files, *(each for each in tokenizer if each.name not in names)])


def is_checkpoint(folder: Folder) -> bool:
    return any(mark in folder.files for mark in MARKS)


def no_checkpoint(called: str) -> ModelNotFound:
    return ModelNotFound(
        f"{shown(called)} holds no checkpoint: {CONFIG} or {ADAPTER_CONFIG} was looked for at its root, in {MODEL}/ "
        f"and in its other folders, and a model of a hub in {MLMODEL}",
        hint="log it with the flavour transformers, or log_artifacts() of the folder that save_pretrained() wrote",
    )
