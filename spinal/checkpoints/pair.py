"""Whether two checkpoints can be compared."""

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.tokenizer import read_tokenizer, tokenizer_file
from spinal.checkpoints.unchanged import Unchanged
from spinal.errors import (
    PairMismatch,
    TokenizerMismatch,
)

_same_tokenizer = Unchanged(1024)


def check_pair(reference: Checkpoint, candidate: Checkpoint) -> None:
    """Whether two checkpoints can be compared; raises PairMismatch or TokenizerMismatch."""
    for name in ("n_layers", "hidden_size", "vocab_size"):
        ours, theirs = getattr(reference, name), getattr(candidate, name)
        if ours != theirs:
            raise PairMismatch(
                f"{name} differs: {reference.source} has {ours}, {candidate.source} has {theirs}",
                hint="compare checkpoints of one ancestor",
            )
    files = [tokenizer_file(reference), tokenizer_file(candidate)]
    _same_tokenizer.check(None, lambda: files, lambda: _compare_tokenizers(reference, candidate))


def _compare_tokenizers(reference: Checkpoint, candidate: Checkpoint) -> None:
    mine, other = read_tokenizer(reference), read_tokenizer(candidate)
    if mine == other:
        return
    parts = [part for part in sorted({*mine, *other}) if mine.get(part) != other.get(part)]
    raise TokenizerMismatch(
        f"tokenizer.json of {reference.source} and {candidate.source} differ in: {', '.join(parts)}",
        hint="both checkpoints must read identical token ids",
    )
