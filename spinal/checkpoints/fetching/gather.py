"""The files of one checkpoint in a private folder: links to what the store has, fetched where it has not.

Which files a checkpoint is, :mod:`spinal.checkpoints.files` says, for a folder of placeholders as for any other.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from spinal.checkpoints.fetching.claims import Claim, claim
from spinal.checkpoints.fetching.halting import Halt
from spinal.checkpoints.fetching.parts import Job
from spinal.checkpoints.fetching.reads import Reading
from spinal.checkpoints.fetching.store import GIT_SHA1, SHA256, ModelStore, key_name, stub_name
from spinal.checkpoints.fetching.stubs import StubJob, keep_header
from spinal.checkpoints.files import (
    ADAPTER_CONFIG,
    BESIDE,
    CONFIG,
    INDEX,
    MOST_ENTRIES,
    MOST_SHARDS,
    TOKENIZER_FILES,
    WEIGHTS,
    FileList,
    list_files,
    list_tokenizer_files,
    most_bytes,
    read_config,
)
from spinal.checkpoints.held import private_folder
from spinal.checkpoints.sources.base import FILE_NAME, Listed, Pinned, RemoteSource
from spinal.errors import Cancelled, DeadlineExceeded
from spinal.errors.faults import shown
from spinal.errors.sources import SourceUnavailable
from spinal.progress import CancelCheck, Progress, ProgressSink, ignore_progress, never_cancelled

MOST_SIZE = 2**63 - 1
TICK_S = 0.2
"""So often it is looked whether somebody cancelled, and said how far it is."""
SETTINGS = frozenset({CONFIG, *TOKENIZER_FILES, INDEX, *BESIDE})


class Want(StrEnum):
    """How much of a checkpoint is gathered."""

    TOKENIZER = "tokenizer"
    """The files of the tokenizer alone."""
    HEADERS = "headers"
    """Settings, and weights files of which only the headers are there."""
    WEIGHTS = "weights"
    """Everything."""


@dataclass(frozen=True)
class Gathered:
    """A checkpoint's files on this host, while the context of :func:`gather` lasts."""

    pinned: Pinned
    folder: Path
    """Private; one entry per file that is there, named as listed."""
    want: Want
    sha256: Mapping[str, str]
    """Content of the checkpoint's files by name, as far as it is known: declared, or read."""
    fetched_bytes: int
    """Read from the source for this."""
    missing_bytes: int
    """Of the weights files that are not in the store; 0 for a tokenizer."""
    _discard: Callable[[], None] = field(repr=False, compare=False, default=lambda: None)

    def discard(self) -> None:
        """Remove from the store what this checkpoint's files were taken from, also where others use it: to be called
        when a file was found damaged on this host. The next one who wants it fetches it again."""
        self._discard()


@contextmanager
def gather(
    pinned: Pinned,
    source: RemoteSource,
    store: ModelStore,
    *,
    want: Want,
    progress: ProgressSink = ignore_progress,
    cancelled: CancelCheck = never_cancelled,
    deadline: float | None = None,
    patience_s: float = 60.0,
    streams: int = 4,
) -> Iterator[Gathered]:
    """The files of ``pinned`` in a private folder, which like all that it leads to stays until the context ends.

    ``deadline`` is a time of ``time.monotonic()``; a source that is away is asked again for ``patience_s`` seconds, and
    ``streams`` files are read at once. ``progress`` and ``cancelled`` are called by the caller's thread.

    Raises what :func:`spinal.checkpoints.files.list_files` raises for the listed names; ``source``'s errors,
    SourceUnavailable once patience is over; WeightsCorrupt, or a settings file's own error, where what came is not what
    was declared; ModelStoreFull, StorageUnavailable, UsageError for the store; Cancelled, DeadlineExceeded.
    """
    halt = Halt(deadline, cancelled)
    crew = _Crew(halt, progress, streams)
    with private_folder() as folder, _entered(pinned, source, store, halt, patience_s, folder, crew, want) as gathered:
        yield gathered


@contextmanager
def _entered(
    pinned: Pinned,
    source: RemoteSource,
    store: ModelStore,
    halt: Halt,
    patience_s: float,
    folder: Path,
    crew: "_Crew",
    want: Want,
) -> Iterator[Gathered]:
    """Faults of the disk are the store's while files are gathered, and not while the caller works with them."""
    inside = False
    try:
        with claim(store, halt) as held:
            gathering = _Gathering(pinned, source, held, halt, patience_s, folder, crew, want)
            gathered = gathering.run()
            inside = True
            yield gathered
            inside = False
    except OSError as error:
        if inside:
            raise
        raise store.unavailable(error) from error


class _Gathering:
    def __init__(
        self,
        pinned: Pinned,
        source: RemoteSource,
        held: Claim,
        halt: Halt,
        patience_s: float,
        folder: Path,
        crew: "_Crew",
        want: Want,
    ) -> None:
        self._pinned, self._source, self._claim, self._halt = pinned, source, held, halt
        self._patience_s, self._folder, self._crew, self._want = patience_s, folder, crew, want
        self._store = held.store
        self._listed = _by_name(pinned)
        self._sha256: dict[str, str] = {}
        self._readings: list[Reading] = []

    def run(self) -> Gathered:
        if self._want is Want.TOKENIZER:
            self._fetch_settings([name for name in TOKENIZER_FILES if name in self._listed])
            files = list_tokenizer_files(self._folder)
        else:
            files = self._gather_settings()
            weights = [self._listed[name] for name in files.weights]
            if self._want is Want.HEADERS:
                self._fetch_headers(weights)
            else:
                self._fetch_weights(weights)
        names = [*files.names, *files.beside]
        return Gathered(
            self._pinned,
            self._folder,
            self._want,
            self._digests(names),
            sum(reading.fetched for reading in self._readings),
            self._missing(files),
            lambda: self._discard(names),
        )

    def _gather_settings(self) -> FileList:
        adapter = ADAPTER_CONFIG in self._listed
        wanted = {ADAPTER_CONFIG} if adapter else SETTINGS - ({INDEX} if WEIGHTS in self._listed else set())
        for name in _shown_names(self._listed, wanted):
            (self._folder / name).touch(mode=0o600)
        self._fetch_settings([name for name in sorted(wanted) if name in self._listed])
        # In the order in which a folder's errors are found.
        read_config(self._folder, ADAPTER_CONFIG if adapter else CONFIG, self._pinned.name)
        return list_files(self._folder, self._pinned.name, None, adapter=adapter)

    def _fetch_settings(self, names: Sequence[str]) -> None:
        fetched = []
        for name in names:
            listed, most = self._listed[name], most_bytes(name)
            if listed.size > most:
                # Whoever reads it refuses it, in words of its own.
                path = self._folder / name
                path.touch(mode=0o600)
                os.truncate(path, most + 1)
            else:
                fetched.append(listed)
        self._fetch(fetched, weights=False)

    def _fetch_weights(self, weights: Sequence[Listed]) -> None:
        self._fetch(weights, weights=True)
        for listed in weights:
            keep_header(self._claim, self._sha256[listed.name])

    def _fetch(self, wanted: Sequence[Listed], *, weights: bool) -> None:
        """Have these files in the store, each content once, and link to them."""
        jobs: dict[str, Job] = {}
        for listed in wanted:
            jobs.setdefault(key_name(self._pinned, listed), Job(self._reading(listed), self._claim, weights))
        missing = {name: job for name, job in jobs.items() if not job.use_known()}
        if missing:
            whole = sum(job.size for job in jobs.values())
            self._claim.reserve({name: job.size for name, job in missing.items()}, whole, self._pinned.name)
            self._crew.run(list(missing.values()))
        for listed in wanted:
            name = key_name(self._pinned, listed)
            sha256 = jobs[name].sha256
            self._sha256[listed.name] = sha256
            _link(self._folder / listed.name, self._store.blob(sha256))

    def _fetch_headers(self, weights: Sequence[Listed]) -> None:
        self._crew.run([StubJob(self._reading(listed), self._claim, self._folder) for listed in weights])

    def _reading(self, listed: Listed) -> Reading:
        reading = Reading(self._pinned, listed, self._source, self._halt, self._patience_s)
        self._readings.append(reading)
        return reading

    def _digests(self, names: Sequence[str]) -> dict[str, str]:
        found = {name: self._sha256.get(name) or self._store.known(self._pinned, self._listed[name]) for name in names}
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}

    def _missing(self, files: FileList) -> int:
        missing = {}
        for name in files.weights:
            listed = self._listed[name]
            sha256 = self._store.known(self._pinned, listed)
            if sha256 is None or not self._store.has(sha256):
                missing[key_name(self._pinned, listed)] = listed.size
        return sum(missing.values())

    def _discard(self, names: Sequence[str]) -> None:
        store = self._store
        for name in names:
            listed = self._listed[name]
            sha256 = self._sha256.get(name) or store.known(self._pinned, listed)
            paths = [store.header(stub_name(self._pinned, listed))]
            if sha256 is not None:
                paths += [store.blob(sha256), store.header(f"sha256-{sha256}")]
            if listed.sha256 is None:
                store.forget_name(key_name(self._pinned, listed))
            self._claim.forget(paths)


class _Work(Protocol):
    done: int

    @property
    def size(self) -> int: ...

    def obtain(self) -> object: ...


class _Crew:
    """Threads that obtain files, while the caller's thread tells how far they are and looks whether to go on."""

    def __init__(self, halt: Halt, progress: ProgressSink, streams: int) -> None:
        self._halt, self._progress, self._streams = halt, progress, streams
        self._first: BaseException | None = None

    def run(self, jobs: Sequence[_Work]) -> None:
        """Returns when all are done; raises the first error once no thread works any more."""
        if not jobs:
            return
        with ThreadPoolExecutor(max(1, min(self._streams, len(jobs))), "fetch") as threads:
            running = [threads.submit(self._obtain, job) for job in jobs]
            try:
                self._watch(jobs, running)
            except BaseException:
                self._halt.stop()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _obtain(self, job: _Work) -> None:
        self._halt.check()
        try:
            job.obtain()
        except BaseException as error:
            # Before the others stop, whose error that would be else.
            self._first = self._first or error
            self._halt.stop()
            raise

    def _watch(self, jobs: Sequence[_Work], running: Sequence[Future[None]]) -> None:
        while True:
            _, left = wait(running, TICK_S, FIRST_EXCEPTION)
            self._tell(jobs)
            if self._first is not None:
                raise self._first
            if not left:
                return
            try:
                self._halt.check()
            except Cancelled:
                raise self._first or Cancelled("cancelled in phase fetch") from None
            except DeadlineExceeded as error:
                # The threads see the clock themselves, and one may know what time ran out on.
                wait(running)
                raise self._first or error from None

    def _tell(self, jobs: Sequence[_Work]) -> None:
        # One after the other, so that a total that grows meanwhile is never passed.
        done = sum(job.done for job in jobs)
        self._progress(Progress("fetch", done, max(done, sum(job.size for job in jobs)), 0.0))


def _by_name(pinned: Pinned) -> dict[str, Listed]:
    """The listed files that can be part of a checkpoint. Raises SourceUnavailable for a list that no source can give
    which keeps its protocol."""
    found: dict[str, Listed] = {}
    for listed in pinned.files or ():
        sound = (
            FILE_NAME.fullmatch(listed.name)
            and 0 <= listed.size <= MOST_SIZE
            and (listed.sha256 is None or SHA256.fullmatch(listed.sha256))
            and (listed.git_sha1 is None or GIT_SHA1.fullmatch(listed.git_sha1))
            and listed.name not in found
        )
        if not sound:
            raise SourceUnavailable(f"{shown(pinned.name)}: the list of its files holds what cannot be a file")
        found[listed.name] = listed
    return found


def _shown_names(listed: Mapping[str, Listed], wanted: frozenset[str] | set[str]) -> list[str]:
    """The names that the folder has to show: whatever may be read, and of others as many as are looked at."""
    first = [name for name in listed if name in wanted]
    weights = [name for name in listed if name.endswith(".safetensors")][: 2 * MOST_SHARDS]
    others = [name for name in listed if name not in wanted and not name.endswith(".safetensors")]
    return [*first, *weights, *others[: max(0, MOST_ENTRIES - len(first) - len(weights))]]


def _link(path: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()
    path.symlink_to(target)
