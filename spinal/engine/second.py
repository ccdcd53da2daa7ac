"""A second reading of a streamed model's blocks, by transformers' own loader: what streaming is compared with.

The blocks stay on disk; accelerate reads each weight when it is used, so that the comparison takes no more memory than
one block. It shares no code with :mod:`spinal.engine.stream`: names, dtypes and order are found anew.
"""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import INDEX
from spinal.checkpoints.held import private_folder
from spinal.checkpoints.stored import FLOATS
from spinal.checkpoints.tensors import read_header
from spinal.engine.anatomy import Anatomy
from spinal.engine.failures import callers_fault
from spinal.engine.load import LoadedModel
from spinal.engine.quiet import quiet
from spinal.errors import ArchitectureUnsupported

WHOLE = "measure it without streaming"


@contextmanager
def second_reading(loaded: LoadedModel, anatomy: Anatomy) -> Iterator[Anatomy | None]:
    """``anatomy`` with its blocks as transformers reads them, inside this context; None where there is nothing to
    compare: a model that is not streamed, one on an accelerator (the loader computes on the CPU), quantised weights.

    Raises ArchitectureUnsupported where transformers cannot read them so.
    """
    checkpoint = loaded.checkpoint
    if loaded.store is None or loaded.device.type != "cpu" or _quantised(loaded):
        yield None
        return
    name = next(name for name, module in loaded.model.named_modules() if module is anatomy.blocks)
    with private_folder() as folder:
        whole = _lay_out(checkpoint, folder / "whole")
        with callers_fault(lambda why: _not_left_on_disk(checkpoint.source, why)), quiet():
            model = type(loaded.model).from_pretrained(
                whole,
                config=copy.deepcopy(loaded.model.config),
                dtype=loaded.dtype,
                device_map={"": "disk"},
                offload_folder=str(folder),
                local_files_only=True,
                use_safetensors=True,
            )
        blocks = model.eval().get_submodule(name)
        if not isinstance(blocks, nn.ModuleList):
            raise AssertionError("a module of one class has one type")
        yield replace(anatomy, blocks=blocks, store=None)


def _lay_out(checkpoint: Checkpoint, folder: Path) -> Path:
    """Links to the files, and an index of all that they hold: the loader finds no tensor that the checkpoint's
    own index leaves out."""
    folder.mkdir()
    files = checkpoint.weight_files()
    for name in checkpoint.files.names:
        if name != INDEX:
            (folder / name).symlink_to(checkpoint.path / name)
    if INDEX in checkpoint.files.settings:
        places = {name: file.name for file in files for name in read_header(file, checkpoint.source)}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return folder


def _quantised(loaded: LoadedModel) -> bool:
    headers = (read_header(file, loaded.checkpoint.source) for file in loaded.checkpoint.weight_files())
    return any(entry["dtype"] not in FLOATS for header in headers for entry in header.values())


def _not_left_on_disk(source: str, why: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(f"{source}: transformers cannot leave its weights on disk ({why})", hint=WHOLE)


def not_the_same(source: str, block: int) -> ArchitectureUnsupported:
    """The error for block ``block`` (from 0), of which the two readings compute different residuals."""
    return ArchitectureUnsupported(
        f"{source}: block {block + 1} read piece by piece does not give what transformers' own loader gives", hint=WHOLE
    )
