"""What a service has to know of the checkpoints of one request, as values without paths: looked at together, once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.identity import content_snapshot, host_identity
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.pair import check_pair
from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.vocabulary import check_tokenizer_loads

REFERENCE = "reference"
"""The role of the checkpoint that all others of a request are compared with."""


@dataclass(frozen=True)
class Surveyed:
    """A checkpoint that passed every check of its files. All members are JSON values."""

    source: str
    revision: str | None
    content_snapshot: str
    host_identity: str
    architecture: str
    n_layers: int | None
    hidden_size: int | None
    vocab_size: int | None
    adapter: bool
    remarks: tuple[str, ...]


def survey(references: Mapping[str, str], roots: Sequence[Path] | None) -> dict[str, Surveyed]:
    """Resolve and inspect what each role refers to, and check that it can be compared with the reference, where there
    is one. Raises the errors of ``resolve_reference``, ``inspect`` and ``check_pair``."""
    found: dict[str, Checkpoint] = {}
    for role in sorted(references, key=lambda role: role != REFERENCE):
        found[role] = resolve_reference(references[role], roots=roots)
        inspect(found[role])
        check_tokenizer_loads(found[role])
        if REFERENCE in found and role != REFERENCE:
            check_pair(found[REFERENCE], found[role])
    return {role: _surveyed(found[role]) for role in references}


def _surveyed(checkpoint: Checkpoint) -> Surveyed:
    shape = checkpoint.whole
    return Surveyed(
        source=checkpoint.source,
        revision=checkpoint.revision,
        content_snapshot=content_snapshot(checkpoint),
        host_identity=host_identity(checkpoint),
        architecture=shape.architecture,
        n_layers=shape.n_layers,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        adapter=checkpoint.base is not None,
        remarks=checkpoint.remarks,
    )
