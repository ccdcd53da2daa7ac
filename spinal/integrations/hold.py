"""Taking hold of a checkpoint before its trainer deletes it: the listed files and nothing else, in the time that links
take."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from spinal.checkpoints.files import ADAPTER_CONFIG, list_files

NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP})
"""Signs that a file system does not link what another one, or another user, holds: then it is copied."""
PIECE = 16 * 2**20
UNFINISHED = ".new"


class HeldFiles:
    """The listed files of a checkpoint, open: they can be copied even when their names are gone."""

    def __init__(self, folder: Path) -> None:
        """Raises WeightsMissing, PickleWeightsRefused and the other errors of ``list_files``, and OSError."""
        files = list_files(folder, folder.name, None, adapter=os.path.lexists(folder / ADAPTER_CONFIG))
        self.folder = folder
        self._linked = frozenset(files.weights)
        self._descriptors: dict[str, int] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for name in (*files.names, *files.beside):
                self._descriptors[name] = os.open(folder / name, os.O_RDONLY | os.O_CLOEXEC)
            undo.pop_all()

    def close(self) -> None:
        while self._descriptors:
            _, descriptor = self._descriptors.popitem()
            os.close(descriptor)

    def link_to(self, target: Path) -> bool:
        """Make ``target``, whole or not at all, in the time that links take; False where links cannot be had.

        Weights are linked, where safetensors writes another file and renames it. Older ones write in place: a trainer
        that begins again would put its own weights into what waits here, so that links cannot be had. The other files
        are small and copied, because trainers do write those in place.
        """
        if not weights_are_replaced():
            return False
        try:
            with _whole(target) as made:
                for name, descriptor in self._descriptors.items():
                    if name in self._linked:
                        os.link(os.path.realpath(self.folder / name), made / name)
                    else:
                        _copy(descriptor, made / name)
        except OSError as error:
            if error.errno in NO_LINKS:
                return False
            raise
        return True

    def copy_to(self, target: Path) -> None:
        """Make ``target``, whole or not at all. Takes as long as the weights are large."""
        with _whole(target) as made:
            for name, descriptor in self._descriptors.items():
                _copy(descriptor, made / name)


@cache
def weights_are_replaced() -> bool:
    """Whether the safetensors of this process, by which its trainer saves, makes another file of one that is there
    already. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "probe.safetensors")
        save_file({"probe": np.zeros(1)}, path)
        # Linked, so that the number of the first file is not given to the second.
        os.link(path, Path(folder, "first"))
        save_file({"probe": np.ones(1)}, path)
        return not path.samefile(Path(folder, "first"))


def remove_unfinished(folder: Path) -> None:
    """What a process left behind that ended while it took hold of a checkpoint."""
    for made in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder that takes the name ``target`` once it is filled."""
    made = target.with_name(target.name + UNFINISHED)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    try:
        yield made
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _copy(descriptor: int, path: Path) -> None:
    at = 0
    with path.open("xb") as file:
        while piece := os.pread(descriptor, PIECE, at):
            file.write(piece)
            at += len(piece)
