"""Checkpoints that live elsewhere, as far as their files were brought to this host.

Resolving never goes over a network: it finds a copy, or says which one it needs. Whoever resolves brings copies
(:mod:`spinal.checkpoints.fetching`), and hands them to the processes that look at them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from spinal.errors import ModelReferenceInvalid, SpinalError
from spinal.errors.faults import shown


class NotAtHand(Exception):
    """A checkpoint that was not brought here; ``reference`` names it."""

    def __init__(self, reference: str) -> None:
        super().__init__(reference)
        self.reference = reference


class Entry(NamedTuple):
    """One file as its source lists it (:class:`spinal.checkpoints.sources.Listed`)."""

    name: str
    size: int
    content: str | None
    """What the source calls its content: ``sha256:`` or ``git-sha1:`` and hex digits."""
    tag: str | None


@dataclass(frozen=True)
class Copy:
    """Files of a checkpoint in a folder on this host."""

    name: str
    """The pinned reference, as it is published."""
    revision: str | None
    folder: Path
    store: Path | None = None
    """Where the files lie that those in ``folder`` are links to."""
    listing: tuple[Entry, ...] | None = None
    """All files as the source lists them, by name; None where they lie in a folder of this host after all."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Of the files whose content is known: declared by the source, or read."""
    whole: bool = True
    """Whether the weights are there; else of each file of them its header alone."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Bytes of the weights that were not on this host when the copy was made, by what tells contents apart."""

    def places(self) -> tuple[Path, ...]:
        """Folders below which its files lie."""
        return (self.folder,) if self.store is None else (self.folder, self.store)


class Copies(Protocol):
    """Finds copies."""

    def has(self, reference: str) -> bool:
        """Whether it was looked for before."""
        ...

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        """The copy of what a remote reference names; of a ``tokenizer`` no other files are needed. Raises NotAtHand,
        and whatever became of the reference when it was looked for."""
        ...


@dataclass(frozen=True)
class KnownCopies:
    """Copies that were made before, and references that none could be made of."""

    found: Mapping[str, Copy] = field(default_factory=dict)
    failed: Mapping[str, SpinalError] = field(default_factory=dict)

    def has(self, reference: str) -> bool:
        return reference in self.found or reference in self.failed

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        if reference in self.failed:
            raise self.failed[reference]
        if reference not in self.found:
            raise NotAtHand(reference)
        return self.found[reference]


class _NoCopies:
    def has(self, reference: str) -> bool:
        return False

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        raise ModelReferenceInvalid(
            f"{shown(reference)} lives elsewhere, and nothing is fetched here", hint="give a folder on this host"
        )


NO_COPIES: Copies = _NoCopies()
"""For callers that look at folders of this host alone."""


def told_copy(copy: Copy) -> dict[str, Any]:
    """The copy as plain JSON."""
    return {
        "name": copy.name,
        "revision": copy.revision,
        "folder": str(copy.folder),
        "store": None if copy.store is None else str(copy.store),
        "listing": None if copy.listing is None else [list(entry) for entry in copy.listing],
        "sha256": dict(copy.sha256),
        "whole": copy.whole,
        "missing": dict(copy.missing),
    }


def heard_copy(told: Mapping[str, Any]) -> Copy:
    """What :func:`told_copy` told."""
    return Copy(
        name=told["name"],
        revision=told["revision"],
        folder=Path(told["folder"]),
        store=None if told["store"] is None else Path(told["store"]),
        listing=None if told["listing"] is None else tuple(Entry(*entry) for entry in told["listing"]),
        sha256=told["sha256"],
        whole=told["whole"],
        missing=told["missing"],
    )
