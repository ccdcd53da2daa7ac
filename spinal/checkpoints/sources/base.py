"""What every source of checkpoints can do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Pinned:
    """What a reference meant at the moment it was looked at."""

    name: str
    """The reference as it is published: scheme and name, no path of the machine."""
    location: str
    """What :meth:`Source.fetch` finds the files by; may hold paths of the machine, never published."""
    revision: str | None = None
    """Commit, version or tag that cannot move; None where the source has none."""


class Source(Protocol):
    """One place where checkpoints live."""

    example: str
    """A reference a reader can copy, for error texts and the contract."""

    def pin(self, path: str, roots: Sequence[Path] | None) -> Pinned:
        """What ``path`` (the reference behind ``scheme:``) means now. ``roots`` are the folders a server allows; None
        allows every place. Reads no weights. Raises ModelNotFound, ModelPathRefused, ModelReferenceInvalid."""
        ...

    def fetch(self, pinned: Pinned) -> Path:
        """A folder on this host that holds the pinned files in Hugging Face layout."""
        ...
