"""The files of one checkpoint in a private folder: links to what the store has, fetched where it has not.

Which files a checkpoint is, :mod:`spinal.checkpoints.files` says, for a folder of placeholders as for any other.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

from spinal.checkpoints.fetching.claims import Claim, claim
from spinal.checkpoints.fetching.crew import Crew
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
from spinal.checkpoints.held import Stamp, private_folder, stamp_of
from spinal.checkpoints.sources.base import FILE_NAME, Listed, Pinned, RemoteSource
from spinal.errors.faults import shown
from spinal.errors.sources import SourceUnavailable
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled

MOST_SIZE = 2**63 - 1
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
    missing: Mapping[str, int]
    """Bytes of the weights files that are not in the store, by :func:`key_name`; empty for a tokenizer."""
    _discard: Callable[[bool], None] = field(repr=False, compare=False, default=lambda _only_damaged: None)

    def discard(self, *, only_damaged: bool = False) -> None:
        """Remove from the store what this checkpoint's files were taken from, also where others use it: to be called
        when it was found damaged on this host. The next one who wants it fetches it again. Settings that are what was
        declared stay, and so do weights that took the place of those that were used. With ``only_damaged`` the weights
        that were used are read, and stay where they are sound."""
        self._discard(only_damaged)


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
    crew = Crew(halt, progress, streams)
    inside = False
    try:
        with private_folder() as folder, claim(store, halt) as held:
            gathering = _Gathering(pinned, source, held, folder, want, crew, halt, patience_s)
            gathered = gathering.run()
            inside = True
            yield gathered
            inside = False
    except OSError as error:
        # A fault of the disk is the store's while files are gathered, and not while the caller works with them.
        if inside:
            raise
        raise store.unavailable(error) from error


@dataclass
class _Gathering:
    pinned: Pinned
    source: RemoteSource
    claim: Claim
    folder: Path
    want: Want
    crew: Crew
    halt: Halt
    patience_s: float

    def __post_init__(self) -> None:
        self.store = self.claim.store
        self.listed = _by_name(self.pinned)
        self.sha256: dict[str, str] = {}
        """Of the files that are linked to."""
        self.readings: list[Reading] = []

    def run(self) -> Gathered:
        if self.want is Want.TOKENIZER:
            self._fetch_settings([name for name in TOKENIZER_FILES if name in self.listed])
            files = list_tokenizer_files(self.folder)
        else:
            files = self._gather_settings()
            weights = [self.listed[name] for name in files.weights]
            if self.want is Want.HEADERS:
                self._fetch_headers(weights)
            else:
                self._fetch_weights(weights)
        names = [*files.names, *files.beside]
        return Gathered(
            self.pinned,
            self.folder,
            self.want,
            self._digests(names),
            sum(reading.fetched for reading in self.readings),
            self._missing(files),
            partial(self._discard, names, files.weights, {name: self._stamp(name) for name in files.weights}),
        )

    def _gather_settings(self) -> FileList:
        adapter = ADAPTER_CONFIG in self.listed
        wanted = {ADAPTER_CONFIG} if adapter else SETTINGS - ({INDEX} if WEIGHTS in self.listed else set())
        for name in _shown_names(self.listed, wanted):
            (self.folder / name).touch(mode=0o600)
        self._fetch_settings([name for name in sorted(wanted) if name in self.listed])
        # In the order in which a folder's errors are found.
        read_config(self.folder, ADAPTER_CONFIG if adapter else CONFIG, self.pinned.name)
        return list_files(self.folder, self.pinned.name, None, adapter=adapter)

    def _fetch_settings(self, names: Sequence[str]) -> None:
        fetched = []
        for name in names:
            listed, most = self.listed[name], most_bytes(name)
            if listed.size > most:
                # Whoever reads it refuses it, in words of its own.
                path = self.folder / name
                path.touch(mode=0o600)
                os.truncate(path, most + 1)
            else:
                fetched.append(listed)
        self._fetch(fetched, weights=False)

    def _fetch_weights(self, weights: Sequence[Listed]) -> None:
        self._fetch(weights, weights=True)
        for listed in weights:
            keep_header(self.claim, self.sha256[listed.name])

    def _fetch(self, wanted: Sequence[Listed], *, weights: bool) -> None:
        """Have these files in the store, each content once, and link to them."""
        jobs: dict[str, Job] = {}
        for listed in wanted:
            jobs.setdefault(key_name(self.pinned, listed), Job(self._reading(listed), self.claim, weights))
        missing = {name: job for name, job in jobs.items() if not (job.use_known() and job.is_served())}
        if missing:
            whole = sum(job.size for job in jobs.values())
            self.claim.reserve({name: job.size for name, job in missing.items()}, whole, self.pinned.name)
            self.crew.run(list(missing.values()))
        for listed in wanted:
            name = key_name(self.pinned, listed)
            sha256 = jobs[name].sha256
            self.sha256[listed.name] = sha256
            _link(self.folder / listed.name, self.store.blob(sha256))

    def _fetch_headers(self, weights: Sequence[Listed]) -> None:
        self.crew.run([StubJob(self._reading(listed), self.claim, self.folder) for listed in weights])

    def _reading(self, listed: Listed) -> Reading:
        reading = Reading(self.pinned, listed, self.source, self.halt, self.patience_s)
        self.readings.append(reading)
        return reading

    def _digests(self, names: Sequence[str]) -> dict[str, str]:
        found = {name: self.sha256.get(name) or self.store.known(self.pinned, self.listed[name]) for name in names}
        return {name: sha256 for name, sha256 in found.items() if sha256 is not None}

    def _missing(self, files: FileList) -> dict[str, int]:
        missing = {}
        for name in files.weights:
            listed = self.listed[name]
            sha256 = self.store.known(self.pinned, listed)
            if sha256 is None or not self.store.has(sha256):
                missing[key_name(self.pinned, listed)] = listed.size
        return missing

    def _stamp(self, name: str) -> Stamp | None:
        """What this host says of the file in the store; None where there is none."""
        sha256 = self.sha256.get(name) or self.store.known(self.pinned, self.listed[name])
        try:
            return None if sha256 is None else stamp_of(self.store.blob(sha256).stat())
        except OSError:
            return None

    def _discard(
        self, names: Sequence[str], weights: Sequence[str], used: Mapping[str, Stamp | None], only_damaged: bool
    ) -> None:
        for name in names:
            listed = self.listed[name]
            sha256 = self.sha256.get(name) or self.store.known(self.pinned, listed)
            # Many checkpoints share settings; weights may have been fetched anew since.
            shared = listed.content is not None if name not in weights else self._stamp(name) != used[name]
            if (shared or only_damaged) and self._is_sound(sha256):
                continue
            paths = [self.store.header(stub_name(self.pinned, listed))]
            if sha256 is not None:
                paths += [self.store.blob(sha256), self.store.header(f"sha256-{sha256}")]
            if listed.sha256 is None:
                self.store.forget_name(key_name(self.pinned, listed))
            self.claim.forget(paths)

    def _is_sound(self, sha256: str | None) -> bool:
        try:
            with self.store.blob(sha256 or "").open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
        except OSError:
            return False


def _by_name(pinned: Pinned) -> dict[str, Listed]:
    """The listed files that can be part of a checkpoint. Raises SourceUnavailable for a list that no source can give
    which keeps its protocol."""
    if pinned.files is None:
        raise ValueError(f"{pinned.name} lies on this host")
    found: dict[str, Listed] = {}
    sizes: dict[str, int] = {}
    for listed in pinned.files:
        sound = (
            FILE_NAME.fullmatch(listed.name)
            and 0 <= listed.size <= MOST_SIZE
            and (listed.sha256 is None or SHA256.fullmatch(listed.sha256))
            and (listed.git_sha1 is None or GIT_SHA1.fullmatch(listed.git_sha1))
            and listed.name not in found
            and listed.size == sizes.setdefault(listed.content or listed.name, listed.size)
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
