"""What a service has to know of the checkpoints of one request, as values without paths: looked at together, once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import file_error
from spinal.checkpoints.identity import content_snapshot, host_identity
from spinal.checkpoints.pair import prepare_sides
from spinal.checkpoints.read_as import read_member
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.vocabulary import check_tokenizer_loads
from spinal.errors.faults import shown

REFERENCE = "reference"
"""The role of the checkpoint that all others of a request are compared with."""


@dataclass(frozen=True)
class Surveyed:
    """A checkpoint that passed every check of its files. All members are JSON values."""

    source: str
    content_snapshot: str
    host_identity: str
    architecture: str
    n_layers: int | None
    hidden_size: int | None
    vocab_size: int | None
    adapter: bool
    remarks: tuple[str, ...]
    read: dict[str, Any]
    """How it is read, where that is not its own way (:func:`spinal.checkpoints.read_as.read_member`)."""


def survey(references: Mapping[str, str], roots: Sequence[Path] | None) -> dict[str, Surveyed]:
    """Resolve and inspect what each role refers to, and see how all can be read beside the reference, where there is
    one. Raises the errors of ``resolve_reference``, ``prepare_sides`` and ``check_tokenizer_loads``, and the
    error of a file that goes away meanwhile."""
    try:
        return _survey(references, roots)
    except FileNotFoundError as error:
        gone = Path(error.filename or "a file").name
        raise file_error(gone)(f"{shown(gone)} is not there any more") from error


def _survey(references: Mapping[str, str], roots: Sequence[Path] | None) -> dict[str, Surveyed]:
    roles = sorted(references, key=lambda role: role != REFERENCE)
    found: dict[str, Checkpoint] = {}
    for role in roles:
        found[role] = resolve_reference(references[role], roots=roots, instead=found.get(REFERENCE))
    prepared = dict(zip(roles, prepare_sides([found[role] for role in roles]), strict=True))
    for checkpoint in prepared.values():
        check_tokenizer_loads(checkpoint)
    return {role: _surveyed(prepared[role]) for role in references}


def _surveyed(checkpoint: Checkpoint) -> Surveyed:
    shape = checkpoint.whole
    return Surveyed(
        source=checkpoint.source,
        content_snapshot=content_snapshot(checkpoint),
        host_identity=host_identity(checkpoint),
        architecture=shape.architecture,
        n_layers=shape.n_layers,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        adapter=checkpoint.base is not None,
        remarks=checkpoint.remarks,
        read=read_member(checkpoint),
    )
