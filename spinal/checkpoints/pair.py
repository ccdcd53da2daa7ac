"""Whether checkpoints can be compared, and how each is read so that they can: with which tokenizer, up to which id.

Two checkpoints are compared by the token ids of the prompts at hand, which the engine holds against each other. From
files alone only what is certain to fail is refused.
"""

from collections.abc import Sequence
from dataclasses import replace

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import list_tokenizer_files
from spinal.checkpoints.inspect import inspect
from spinal.checkpoints.tokenizer import has_tokenizer, known_ids, tokenizer_digest
from spinal.documents.trace import OWN_WAY, Reading
from spinal.errors import PairMismatch, TokenizerInvalid


def prepare_sides(
    sides: Sequence[Checkpoint], *, tokenizer: Checkpoint | None = None, at_most: int | None = None
) -> list[Checkpoint]:
    """The sides of a comparison, the reference first, as each has to be read in it: with a tokenizer of its own or a
    lent one, and up to the ids that all of them know.

    ``tokenizer`` reads the prompts of every side, where one is named. ``at_most`` is what a side that was traced before
    was read up to. Reads no weights but for a scan of small ones. Raises the errors of ``inspect``, and PairMismatch
    where no shared reading is possible.
    """
    lent = lend_tokenizers(sides, tokenizer)
    for side in lent:
        inspect(side)
        check_pair(lent[0], side)
    return share_vocabulary(lent, at_most)


def check_pair(reference: Checkpoint, candidate: Checkpoint) -> None:
    """Raises PairMismatch for two shapes that have no differences block by block."""
    for name in ("n_layers", "hidden_size"):
        ours, theirs = getattr(reference, name), getattr(candidate, name)
        if ours != theirs:
            raise PairMismatch(
                f"{name} differs: {reference.source} has {ours}, {candidate.source} has {theirs}",
                hint="compare checkpoints of one ancestor",
            )


def lend_tokenizers(sides: Sequence[Checkpoint], tokenizer: Checkpoint | None = None) -> list[Checkpoint]:
    """The sides with a tokenizer each: the one that is named, else its own, else that of the first side which has one.

    Raises TokenizerInvalid where no side has one and none is named.
    """
    if tokenizer is not None:
        return [_with_tokenizer(side, tokenizer) for side in sides]
    lender = next((side.tokenizing for side in sides if has_tokenizer(side.tokenizing)), None)
    if lender is None and len(sides) > 1:
        raise TokenizerInvalid(
            f"none of {', '.join(side.source for side in sides)} holds a tokenizer.json",
            hint="save the fast tokenizer with one of them, or, on the command line, name it: --tokenizer DIR",
        )
    if lender is None:
        return list(sides)
    return [side if has_tokenizer(side.tokenizing) else _with_tokenizer(side, lender) for side in sides]


def _with_tokenizer(side: Checkpoint, lender: Checkpoint) -> Checkpoint:
    if has_tokenizer(side.whole) and tokenizer_digest(side.whole) == tokenizer_digest(lender):
        # Equal files read equally: the checkpoint is then read its own way, and its trace is the same one.
        return side
    return replace(side, lender=replace(lender, files=list_tokenizer_files(lender.path)))


def share_vocabulary(sides: Sequence[Checkpoint], at_most: int | None = None) -> list[Checkpoint]:
    """The sides, read up to the ids that all of them know, and ``at_most`` of them.

    Ids are what is shared: which text each side writes for one does not enter any number. Raises TokenizerInvalid.
    """
    own = [own_vocabulary(side) for side in sides]
    shared = min([*own, *([] if at_most is None else [at_most])], default=0)
    return [replace(side, vocabulary=shared if mine > shared else None) for side, mine in zip(sides, own, strict=True)]


def own_vocabulary(checkpoint: Checkpoint) -> int:
    """How many ids both the tokenizer and the rows of the vocabulary know; those beyond have no meaning to it."""
    return min(known_ids(checkpoint.tokenizing), checkpoint.whole.vocab_size or 0)


def reading_of(checkpoint: Checkpoint) -> Reading:
    """How the checkpoint is read, where that is not its own way: a part of the identity of its trace."""
    if checkpoint.lender is None and checkpoint.vocabulary is None:
        return OWN_WAY
    lender = checkpoint.lender
    return Reading(
        tokenizer=None if lender is None else tokenizer_digest(lender),
        vocabulary=checkpoint.vocabulary,
    )
