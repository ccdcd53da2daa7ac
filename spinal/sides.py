"""What a caller on this machine names as the sides of a measurement: folders of checkpoints, or stored traces."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.copies import NO_COPIES, Copies
from spinal.checkpoints.pair import lend_tokenizers
from spinal.checkpoints.resolve import resolve_reference, resolve_tokenizer
from spinal.checkpoints.sources.reach import is_elsewhere
from spinal.documents.schemas import load
from spinal.documents.trace import Trace
from spinal.errors import DocumentInvalid, UsageError

PathName = str | os.PathLike[str]


@dataclass(frozen=True)
class Places:
    """Where parts of a checkpoint lie that are not in its folder."""

    base: PathName | None = None
    tokenizer: PathName | None = None
    sources: PathName | None = None
    """File that says where models live besides folders (``docs/sources.md``); what anybody may use where absent."""
    copies: Copies = NO_COPIES
    """Of checkpoints that live elsewhere."""

    def resolve(
        self, given: PathName, *, base: Checkpoint | None = None, instead: Checkpoint | None = None
    ) -> Checkpoint:
        """Raises the errors of ``resolve_reference``."""
        return resolve_reference(os.fspath(given), roots=None, copies=self.copies, base=base, instead=instead)

    def find_base(self) -> Checkpoint | None:
        """Raises the errors of ``resolve_reference``."""
        return None if self.base is None else self.resolve(self.base)

    def find_tokenizer(self) -> Checkpoint | None:
        """Raises the errors of ``resolve_tokenizer``."""
        if self.tokenizer is None:
            return None
        return resolve_tokenizer(os.fspath(self.tokenizer), roots=None, copies=self.copies)


NOWHERE_ELSE = Places()


def find_checkpoint(given: PathName, places: Places) -> Checkpoint:
    """The checkpoint in a folder, with what is named for it. Raises UsageError and the errors of
    :mod:`spinal.checkpoints`."""
    checkpoint = places.resolve(given, base=places.find_base())
    require_use(places, [checkpoint])
    [lent] = lend_tokenizers([checkpoint], places.find_tokenizer())
    return lent


def find_sides(given: Sequence[PathName | Trace], places: Places) -> list[Checkpoint | Trace]:
    """Checkpoints, or the traces in files or at hand; adapters on the base that is named, or else on the reference
    where theirs is not found. Raises UsageError, DocumentInvalid and the errors of :mod:`spinal.checkpoints`."""
    base = places.find_base()
    found: list[Checkpoint | Trace] = []
    for one in given:
        reference = found[0] if found and isinstance(found[0], Checkpoint) else None
        found.append(_side(one, places, base, reference))
    require_use(places, [side for side in found if isinstance(side, Checkpoint)])
    return found


def require_use(places: Places, checkpoints: Sequence[Checkpoint]) -> None:
    """Refuse what is named and would be used for nothing."""
    if places.base is not None and all(side.base is None for side in checkpoints):
        raise UsageError("a base was given, and no side is an adapter", hint="leave it out")
    if places.tokenizer is not None and not checkpoints:
        raise UsageError("a tokenizer was given, and every side was traced already", hint="leave it out")


def _side(
    given: PathName | Trace, places: Places, base: Checkpoint | None, reference: Checkpoint | None
) -> Checkpoint | Trace:
    """A checkpoint, or the trace in a file or at hand."""
    if isinstance(given, Trace):
        return given
    if not _is_file(given):
        return places.resolve(given, base=base, instead=reference)
    document = load(given)
    if not isinstance(document, Trace):
        raise DocumentInvalid(f"{given} holds a {document.schema_}", hint="compare two traces, or two checkpoints")
    return document


def _is_file(given: PathName) -> bool:
    try:
        # What lives elsewhere is meant also where a file here is called so.
        return not is_elsewhere(os.fspath(given)) and Path(given).is_file()
    except OSError:
        # No name of a file at all, too long a one for example.
        return False
