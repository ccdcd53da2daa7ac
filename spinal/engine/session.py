"""One model, opened and ready to be measured: what every step of a measurement needs, in one value.

A session belongs to one attempt. Where memory did not suffice the model is opened again: matched noise overwrites the
candidate's weights, and nothing of the failed attempt may take up memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.tokenizer import known_ids
from spinal.documents.editions import PRESENT, Edition
from spinal.engine.anatomy import Anatomy, find_anatomy
from spinal.engine.classes import tower_remarks
from spinal.engine.failures import fault_of_checkpoints
from spinal.engine.load import LoadedModel, load, load_pair
from spinal.engine.probes import check_probes
from spinal.engine.reporter import Reporter
from spinal.engine.rotary import forget_lengths
from spinal.engine.tokens import AGREE, Batch, GatheredRows, Joined, Tokens, lens_rows, make_batches, tokenize
from spinal.engine.transport import Readout
from spinal.errors import PairMismatch, TokenizerMismatch
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet

LENGTHS_APART = (
    "the model's rotary frequencies follow the length of a pass: prompts of different lengths were not batched together"
)


@dataclass(frozen=True, eq=False)
class Setup:
    """How models are opened and measured in one call of the engine."""

    prompts: PromptSet
    asked: MeasurementProfile
    """The profile as the caller gave it: the one that results carry."""
    batch_size: int
    """Prompts per forward pass: the profile's, or half of it where memory did not suffice."""
    device: str
    stream: bool
    """Whether blocks are read from disk one at a time where the checkpoint allows it."""
    reporter: Reporter
    edition: Edition = PRESENT

    @cached_property
    def profile(self) -> MeasurementProfile:
        """The profile that is worked with: the one asked for at ``batch_size``."""
        return self.asked.model_copy(update={"batch_size": self.batch_size})


@dataclass(frozen=True, eq=False)
class Session:
    """A model with its parts, the token ids of the prompts and the positions that are read.

    D blocks, N = D + 1 nodes, P prompts, K gathered rows.
    """

    setup: Setup
    loaded: LoadedModel
    readout: Readout
    tokens: Tokens
    gathered: GatheredRows
    lengths_apart: bool = False
    """Whether prompts of different lengths must not share a batch: the length of a pass changes its numbers."""

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts."""
        return self.readout.anatomy

    @property
    def profile(self) -> MeasurementProfile:
        """The profile that is worked with; results carry ``setup.asked``."""
        return self.setup.profile

    @property
    def reporter(self) -> Reporter:
        return self.setup.reporter

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    @property
    def source(self) -> str:
        """The checkpoint's reference, as errors name it."""
        return self.loaded.checkpoint.source

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader of the numbers should know of how the model was opened."""
        apart = (LENGTHS_APART,) if self.lengths_apart else ()
        return (*tower_remarks(self.loaded.model), *apart, *self.loaded.remarks)

    @property
    def dtype(self) -> str:
        """dtype of the blocks, as documents name it."""
        return str(self.loaded.dtype).removeprefix("torch.")

    @property
    def nodes(self) -> int:
        """N = D + 1."""
        return len(self.anatomy.blocks) + 1

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.tokens.ids)

    @cached_property
    def joined(self) -> dict[int, Joined]:
        """The prompts that one pass reads together with their continuation. Not where the length of a pass changes its
        numbers, nor where the prompt was cut to make room: its own rows would be others."""
        if self.profile.continuation_walk != "joint" or self.lengths_apart:
            return {}
        tokens = self.tokens
        return {row: (ids, at) for row, (ids, at) in tokens.continuations.items() if ids[:at] == tokens.ids[row]}

    def batches(self, ids: tuple[tuple[int, ...], ...] | None = None) -> list[Batch]:
        """Batches of ``ids`` (those of the prompts where there are none) in the size that is worked with."""
        chosen = self.tokens.ids if ids is None else ids
        return make_batches(chosen, self.setup.batch_size, self.device, lengths_apart=self.lengths_apart)

    def narrowed(self, prompts: int | Sequence[int] | npt.NDArray[np.int64]) -> "Session":
        """The same model on the first so many prompts, or on those named by their places, in that order. A prompt keeps
        its continuation and its category; samples of what is left take it as it stands."""
        places = range(min(prompts, self.prompts)) if isinstance(prompts, int) else [int(place) for place in prompts]
        tokens = self.tokens
        ids = tuple(tokens.ids[place] for place in places)
        kept = {row: tokens.continuations[place] for row, place in enumerate(places) if place in tokens.continuations}
        categories = tuple(tokens.categories[place] for place in places) if tokens.categories else ()
        cut = frozenset(row for row, place in enumerate(places) if place in tokens.cut)
        narrower = replace(tokens, ids=ids, continuations=kept, cut=cut, categories=categories, order=())
        return replace(self, tokens=narrower, gathered=lens_rows(ids, self.profile.lens_positions))


@fault_of_checkpoints
def open_session(checkpoint: Checkpoint, setup: Setup) -> Session:
    """Load ``checkpoint``, which :func:`spinal.checkpoints.inspect.inspect` has passed, and find its parts.

    Raises the errors of :mod:`spinal.engine.load`, ContextExceeded, PromptSetInvalid, ArchitectureUnsupported.

    Examples
    --------
    >>> from spinal.checkpoints.resolve import resolve_reference
    >>> from spinal.progress import ignore_progress, never_cancelled
    >>> prompts = PromptSet(("How do I plant a tree?", "Why is the sky blue?"), (None, None))
    >>> reporter = Reporter(ignore_progress, never_cancelled)
    >>> setup = Setup(prompts, MeasurementProfile(), batch_size=16, device="cpu", stream=False, reporter=reporter)
    >>> session = open_session(resolve_reference("examples/checkpoints/sft", roots=None), setup)
    >>> session.nodes, session.prompts, session.dtype
    (25, 2, 'float32')
    """
    return _opened(load(checkpoint, setup.profile, setup.device, stream=setup.stream), setup)


@fault_of_checkpoints
def open_pair(reference: Checkpoint, candidate: Checkpoint, setup: Setup) -> tuple[Session, Session]:
    """Both models of a pair that :func:`spinal.checkpoints.pair.prepare_sides` has passed; what they share is read
    once.

    Raises what :func:`open_session` raises, TokenizerMismatch where the prompts become different token ids, and
    PairMismatch where the two are read up to different ids.
    """
    pair = load_pair(reference, candidate, setup.profile, setup.device, stream=setup.stream)
    ours, theirs = (_opened(loaded, setup) for loaded in pair)
    if (ours.tokens.ids, ours.tokens.continuations) != (theirs.tokens.ids, theirs.tokens.continuations):
        raise TokenizerMismatch(
            f"{reference.source} and {candidate.source} turn the prompts into different token ids",
            hint=AGREE,
        )
    if ours.readout.vocabulary != theirs.readout.vocabulary:
        raise PairMismatch(
            f"{reference.source} is read up to id {ours.readout.vocabulary - 1}, {candidate.source} up to id "
            f"{theirs.readout.vocabulary - 1}",
            hint="trace both sides in one comparison: they are then read up to the ids that they share",
        )
    apart = ours.lengths_apart or theirs.lengths_apart
    return replace(ours, lengths_apart=apart), replace(theirs, lengths_apart=apart)


def _opened(loaded: LoadedModel, setup: Setup) -> Session:
    tokens = tokenize(loaded, setup.prompts, setup.asked)
    follows_length = forget_lengths(loaded.model)
    anatomy = find_anatomy(loaded.model, _blocks(loaded), loaded.checkpoint.source, loaded.store)
    apart = check_probes(loaded, anatomy, tokens.ids, follows_length=follows_length)
    readout = Readout(anatomy, _vocabulary(loaded.checkpoint, tokens, anatomy.vocabulary))
    return Session(setup, loaded, readout, tokens, lens_rows(tokens.ids, setup.asked.lens_positions), apart)


def _vocabulary(checkpoint: Checkpoint, tokens: Tokens, rows: int) -> int:
    """How many ids the next-token distributions hold: those that the tokenizer's files know, as far as the head has
    rows, or as many as a comparison shares. Told from files, so that a submission knows it, too."""
    highest = 1 + tokens.highest
    if checkpoint.vocabulary is None:
        # A token that only the tokenizer's settings name is known to no file, and read where a prompt holds it.
        return min(max(known_ids(checkpoint.tokenizing), highest), rows)
    if not highest <= checkpoint.vocabulary <= rows:
        raise PairMismatch(
            f"{checkpoint.source} shares {checkpoint.vocabulary} ids with the other side; it has {rows}, and the "
            f"prompts go up to id {highest - 1}",
            hint="leave the tokens out of the prompts that only one side knows",
        )
    return checkpoint.vocabulary


def _blocks(loaded: LoadedModel) -> int | None:
    """D as config.json says it, else as transformers completes it; None where neither does."""
    stated = loaded.checkpoint.whole.n_layers
    found = getattr(loaded.model.config.get_text_config(), "num_hidden_layers", None) if stated is None else stated
    return found if isinstance(found, int) else None
