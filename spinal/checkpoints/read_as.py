"""How a checkpoint is read beside others, as plain JSON: a submission says it, and a worker does the same.

Members, each only where the checkpoint is not read its own way: ``base``, the reference of the base that an adapter is
measured on, pinned where that lives elsewhere; ``tokenizer``, the reference of the folder that lends it and the digest
of its files; ``vocabulary``, the number of ids that are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.copies import NO_COPIES, Copies
from spinal.checkpoints.resolve import resolve_reference, resolve_tokenizer
from spinal.checkpoints.tokenizer import tokenizer_digest
from spinal.errors import ModelChanged


def read_member(checkpoint: Checkpoint) -> dict[str, Any]:
    """What has to be said beside a checkpoint's reference to read it as it is here; empty where nothing has to."""
    found: dict[str, Any] = {}
    if checkpoint.base is not None and (checkpoint.base_named is not None or checkpoint.base.copy is not None):
        found["base"] = checkpoint.base.source
    if checkpoint.lender is not None:
        found["tokenizer"] = {"model": checkpoint.lender.source, "sha256": tokenizer_digest(checkpoint)}
    if checkpoint.vocabulary is not None:
        found["vocabulary"] = checkpoint.vocabulary
    return found


def resolve_as(
    reference: str, read: Mapping[str, Any], *, roots: Sequence[Path] | None, copies: Copies = NO_COPIES
) -> Checkpoint:
    """The checkpoint behind ``reference``, read as :func:`read_member` said. Raises ModelChanged where the lent
    tokenizer is another one now, and the errors of :func:`spinal.checkpoints.resolve.resolve_reference`."""
    base = resolve_reference(read["base"], roots=roots, copies=copies) if "base" in read else None
    # A base that lives elsewhere was said: none that is missing here is there.
    own = resolve_reference(reference, roots=roots, copies=copies, base=base, hub=False)
    found = replace(own, vocabulary=read.get("vocabulary"))
    if "tokenizer" not in read:
        return found
    lent = replace(found, lender=resolve_tokenizer(read["tokenizer"]["model"], roots=roots, copies=copies))
    if tokenizer_digest(lent) != read["tokenizer"]["sha256"]:
        raise ModelChanged(
            f"the tokenizer of {read['tokenizer']['model']} is not the one that was submitted",
            hint="submit again; tokenizers must not change while they are used",
        )
    return lent
