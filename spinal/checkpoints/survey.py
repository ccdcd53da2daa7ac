"""What a service has to know of the checkpoints of one request, as values without paths: looked at together, once."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.copies import NO_COPIES, Copies
from spinal.checkpoints.files import file_error
from spinal.checkpoints.identity import content_snapshot, declared_digest, host_identity
from spinal.checkpoints.pair import prepare_sides
from spinal.checkpoints.read_as import read_member
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.settings import setting_differences
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
    weights_digest: str | None = None
    """Of its content, where that is known without reading the weights."""
    missing: Mapping[str, int] = field(default_factory=dict)
    """Bytes of its weights that are not on the host that looked, by what tells contents apart: sides may share some."""
    differences: tuple[dict[str, Any], ...] = ()
    """On what its settings differ from the reference's (:func:`spinal.checkpoints.settings.setting_differences`)."""


def survey(
    references: Mapping[str, str], roots: Sequence[Path] | None, copies: Copies = NO_COPIES
) -> dict[str, Surveyed]:
    """Resolve and inspect what each role refers to, and see how all can be read beside the reference, where there is
    one. Raises the errors of ``resolve_reference``, ``prepare_sides`` and ``check_tokenizer_loads``, the
    error of a file that goes away meanwhile, and NotAtHand for what is not among ``copies``."""
    try:
        return _survey(references, roots, copies)
    except FileNotFoundError as error:
        gone = Path(error.filename or "a file").name
        raise file_error(gone)(f"{shown(gone)} is not there any more") from error


def _survey(references: Mapping[str, str], roots: Sequence[Path] | None, copies: Copies) -> dict[str, Surveyed]:
    roles = sorted(references, key=lambda role: role != REFERENCE)
    found: dict[str, Checkpoint] = {}
    for role in roles:
        found[role] = resolve_reference(references[role], roots=roots, copies=copies, instead=found.get(REFERENCE))
    prepared = dict(zip(roles, prepare_sides([found[role] for role in roles]), strict=True))
    for checkpoint in prepared.values():
        check_tokenizer_loads(checkpoint)
    return {role: _surveyed(prepared[role], prepared.get(REFERENCE)) for role in references}


def _surveyed(checkpoint: Checkpoint, reference: Checkpoint | None) -> Surveyed:
    shape = checkpoint.whole
    digest = declared_digest(checkpoint)
    beside = () if reference is None or digest is None else setting_differences(reference, checkpoint)
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
        weights_digest=digest,
        missing={
            name: size for part in checkpoint.parts if part.copy is not None for name, size in part.copy.missing.items()
        },
        differences=tuple(asdict(each) for each in beside),
    )
