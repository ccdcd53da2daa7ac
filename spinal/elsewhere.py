"""Checkpoints of a command line that live elsewhere: fetched when they are first named, kept for the next time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spinal.cache.environment import cache_folder
from spinal.checkpoints.copies import Copies, Copy
from spinal.checkpoints.fetching.collect import Collector
from spinal.checkpoints.fetching.gather import Want
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.held import private_folder
from spinal.checkpoints.sources.reach import (
    MOST_SETTINGS,
    Reach,
    SourceSettings,
    default_settings,
    load_source_settings,
)
from spinal.errors import UsageError
from spinal.machine import Machine
from spinal.progress import Progress, ProgressSink, ignore_progress
from spinal.sides import PathName


@contextmanager
def copies_of(machine: Machine, sources: PathName | None) -> Iterator[Copies]:
    """Finds what remote references name, by fetching it; the copies stay until the context exits. Without the cache
    nothing of them stays after it. ``sources`` is the file of settings. Raises UsageError where that cannot be read."""
    settings = find_settings(None if sources is None else Path(sources))
    with _folder(machine) as folder, _Watched(machine, settings, ModelStore(folder)) as copies:
        yield copies


@contextmanager
def _folder(machine: Machine) -> Iterator[Path]:
    """Where files are kept, or where they are for a while."""
    if machine.cache:
        yield cache_folder("models")
        return
    with private_folder() as passing:
        yield passing


def find_settings(file: Path | None) -> SourceSettings:
    """What a file says of sources, or what holds without one. Raises UsageError."""
    if file is None:
        return default_settings()
    try:
        with file.open("rb") as stream:
            return load_source_settings(stream.read(MOST_SETTINGS + 1).decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings of model sources in {file} cannot be read", hint="check --sources") from error


class _Watched(Collector):
    """Shows what it fetches to whoever watches the machine."""

    def __init__(self, machine: Machine, settings: SourceSettings, store: ModelStore) -> None:
        super().__init__(Reach(None, settings.of(None)), store, want=Want.WEIGHTS, progress=self._show)
        self._machine = machine
        self._sink: ProgressSink = ignore_progress

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        if self.has(reference):
            return super().find(reference, tokenizer=tokenizer)
        with self._machine.watch(reference) as self._sink:
            return super().find(reference, tokenizer=tokenizer)

    def _show(self, progress: Progress) -> None:
        # Fetching is all of this piece of work.
        fraction = progress.done / progress.total if progress.total else 1.0
        self._sink(Progress(progress.phase, progress.done, progress.total, fraction))
