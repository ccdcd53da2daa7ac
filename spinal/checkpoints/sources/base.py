"""What every source of checkpoints can do.

A source turns a reference into one list of files that cannot move. Nothing outside the list is opened; what is read is
held against what the list says of it (:mod:`spinal.checkpoints.fetching`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from spinal.documents.canonical import digest_of

FILE_NAME = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-+ ]{0,199}")
"""Names of files that are looked at. A checkpoint's files lie in one folder: whatever has another name is no part of
it."""


@dataclass(frozen=True)
class Listed:
    """One file, as its source lists it."""

    name: str
    """In the folder of the checkpoint; it matches :data:`FILE_NAME`."""
    size: int
    """Bytes."""
    at: str
    """What the source finds it by: a path in a repository, the key of an object. Never published."""
    sha256: str | None = None
    """Of its content, where the source says so."""
    git_sha1: str | None = None
    """Id of the git blob with its content, where the source says so."""
    tag: str | None = None
    """What changes with its content where neither is told: an etag, with a version id where there is one."""

    @property
    def content(self) -> str | None:
        """What its content is called by its source; None where only its size and tag are known."""
        if self.sha256 is not None:
            return f"sha256:{self.sha256}"
        return None if self.git_sha1 is None else f"git-sha1:{self.git_sha1}"


@dataclass(frozen=True)
class Pinned:
    """What a reference meant at the moment it was looked at."""

    name: str
    """The reference as it is published, which means the same from now on: ``hf:org/name@<commit>``,
    ``mlflow:name/3``, ``local:`` and a path below its root. No path of the machine, no host, no secret."""
    location: str
    """Where the files lie: the folder of a ``local:`` one, else what tells this place from every other one, its host or
    bucket included. Never published."""
    revision: str | None = None
    """Commit, version or tag that cannot move; None where the source has none."""
    files: tuple[Listed, ...] | None = None
    """Every file, by name; None for a folder on this host, whose files are looked at there."""
    scheme: str = "local"
    """Of the source that reads the files, which need not be the one that was asked: a registry may keep them in a
    bucket."""

    def key_of(self, listed: Listed) -> str:
        """64 hex digits that tell this file from every other one, and from itself with another content as far as the
        source can tell that."""
        return digest_of([self.scheme, self.location, self.revision, listed.at, str(listed.size), listed.tag])


class Source(Protocol):
    """One place where checkpoints live, as one caller may use it."""

    def pin(self, path: str) -> Pinned:
        """What ``path`` (the reference behind ``scheme:``) means now. Metadata alone: reads no weights.

        Raises ModelReferenceInvalid, ModelNotFound, SourceRefused, ModelAccessRefused, SourceUnavailable; a source on
        this host ModelPathRefused."""
        ...


class RemoteSource(Source, Protocol):
    """A source whose files are read over a network."""

    def read(
        self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of a listed file from ``start`` to ``end`` (exclusive), in pieces as they come, none longer than a
        mebibyte. They are what the source sent: the caller counts and verifies them, and asks again where they end
        early. Entering and iterating raise SourceUnavailable where the source is away, cuts off or stalls;
        ModelChanged where the file is not what was listed any more; ModelNotFound, ModelAccessRefused and SourceRefused
        as :meth:`pin`."""
        ...


@dataclass(frozen=True)
class Timeouts:
    """Seconds."""

    connect: float = 5.0
    read: float = 10.0
    """Between two pieces of an answer: how long a request can go on without noticing that it was cancelled."""
    pin: float = 30.0
    """For all requests of one ``pin`` together."""


@dataclass(frozen=True)
class Setting:
    """What a source is made with: its part of the settings, and the other sources of the same caller."""

    settings: Any
    """An instance of the kind's ``settings``; None for ``local``."""
    roots: tuple[Path, ...] | None
    """Folders below which ``local:`` references may point; None where any place will do."""
    pin: Callable[[str], Pinned]
    """Pins a whole reference, for a source that only names where files lie. Raises as :meth:`Source.pin`."""
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True)
class Made:
    """How sources of one kind are made; a file beside this one ends with it."""

    make: Callable[[Setting], Source]
    """The source of one caller; libraries that not everybody has are imported here. Raises UsageError naming the extra
    that brings them."""
    settings: type[BaseModel] | None = None
    """What an operator says of it (frozen, ``extra="forbid"``); None for ``local``, which needs none."""
    default: Callable[[], BaseModel] | None = None
    """What a command line uses where nothing is said; None where it has to be said."""


@dataclass(frozen=True)
class Kind:
    """One kind of source: a line in ``SOURCES``."""

    scheme: str
    example: str
    """A reference a reader can copy, for error texts, help and the contract."""
    load: Callable[[], Made]
    """Imports its file: a command that measures nothing knows its name alone."""
    remote: bool = True
    """Whether it is reached over a network, and needs settings to be enabled."""

    def make(self, setting: Setting) -> Source:
        """As :attr:`Made.make`."""
        return self.load().make(setting)


def own_files(files: Sequence[Listed]) -> tuple[Listed, ...]:
    """The files that can be part of a checkpoint, by name: those with a usable name in the folder itself."""
    return tuple(sorted((each for each in files if FILE_NAME.fullmatch(each.name)), key=lambda each: each.name))
