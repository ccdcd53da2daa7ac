"""What is the same on both sides of a pair: the same tensors, the same configuration, called with the same arguments.

Only what is the same in all three computes the same, and is not run (``docs/method.md`` ("Floors and frames")). Equal
weights under another rotary base, activation, window or multiplier are another block.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spinal.checkpoints.settings import differing_keys
from spinal.engine.classes import text_modules
from spinal.engine.session import Session
from spinal.engine.values import same_rows, same_settings, same_tensors, same_value
from spinal.engine.walk import Prepared, run_block

BoolArray = npt.NDArray[np.bool_]
RESCALED = 1e-6
"""Largest relative difference of two fitted scales in front of a head that is rounding of the fit."""


class Same:
    """What two sessions share, told on ``mine`` and ``other``: both sides' :func:`spinal.engine.walk.prepare` of the
    same batches. D blocks; nothing is run twice.

    Members that look at a block need it resident on both sides, the first time: :meth:`look_at` looks at all that is
    asked of one, :meth:`settled` at all blocks.
    """

    def __init__(self, ours: Session, theirs: Session, mine: Sequence[Prepared], other: Sequence[Prepared]) -> None:
        self._ours, self._theirs, self._mine, self._other = ours, theirs, mine, other
        self._one_model = ours.loaded.model is theirs.loaded.model
        self._tensors: dict[int, bool] = {}
        self._settings: dict[int, bool] = {}
        self._arguments: dict[int, bool] = {}

    @property
    def depth(self) -> int:
        """D."""
        return len(self._ours.anatomy.blocks)

    def block(self, index: int) -> bool:
        """Whether block ``index`` (from 0), resident on both sides, has the same tensors, configuration and arguments
        on both."""
        return self.block_tensors(index) and self.block_arguments(index) and self.block_settings(index)

    def block_tensors(self, index: int) -> bool:
        """Whether parameters and stored buffers are the same, bit for bit."""
        if index not in self._tensors:
            self._tensors[index] = self._one_model or same_tensors(*self._blocks(index))
        return self._tensors[index]

    def block_settings(self, index: int) -> bool:
        """Whether everything else that the block carries is."""
        if index not in self._settings:

            def run() -> object:
                first = min(self._mine, key=lambda item: item.embedded.numel())
                return run_block(self._ours.anatomy, index, first.embedded, first.calls[index])

            self._settings[index] = self._one_model or same_settings(*self._blocks(index), run)
        return self._settings[index]

    def block_arguments(self, index: int) -> bool:
        """Whether both sides call the block with the same masks, tables and biases, bit for bit, in every batch."""
        if index not in self._arguments:
            self._arguments[index] = all(
                same_value(_arguments(a, index), _arguments(b, index))
                for a, b in zip(self._mine, self._other, strict=True)
            )
        return self._arguments[index]

    def _blocks(self, index: int) -> tuple[torch.nn.Module, torch.nn.Module]:
        return self._ours.anatomy.blocks[index], self._theirs.anatomy.blocks[index]

    @property
    def embedded(self) -> bool:
        """Whether r_0 is the same in every batch."""
        return all(torch.equal(a.embedded, b.embedded) for a, b in zip(self._mine, self._other, strict=True))

    @property
    def embedding_tensors(self) -> bool:
        """Whether all that is stored for what comes ahead of the blocks is the same: rows of the ids that are read,
        tables of positions, norms."""
        shared = self._ours.readout.vocabulary
        mine, other = (_ahead_of_blocks(side) for side in (self._ours, self._theirs))
        return self._one_model or (
            mine.keys() == other.keys()
            and all(same_rows(mine[name], other[name], shared) for name in mine)
            and same_tensors(*(side.loaded.model.get_input_embeddings() for side in self._sides), shared=shared)
        )

    @property
    def readout_tensors(self) -> bool:
        """Whether norm and head hold the same for the ids that are read."""
        shared = self._ours.readout.vocabulary
        return self._one_model or all(
            same_tensors(a, b, shared=shared if a is self._ours.anatomy.head else None) for a, b in self._readouts()
        )

    @property
    def readout_settings(self) -> bool:
        """Whether norm and head carry the same beside tensors, and logits are scaled and capped alike."""
        ours, theirs = self._ours.anatomy, self._theirs.anatomy
        return (
            len(ours.readout) == len(theirs.readout)
            and all(same_settings(a, b) for a, b in self._readouts())
            and abs(ours.scale - theirs.scale) <= RESCALED * abs(ours.scale)
            and ours.softcap == theirs.softcap
        )

    @property
    def _sides(self) -> tuple[Session, Session]:
        return self._ours, self._theirs

    def _readouts(self) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
        ours, theirs = ((*side.anatomy.readout, side.anatomy.head) for side in self._sides)
        return list(zip(ours, theirs, strict=False))

    def settled(self) -> "Same":
        """This, once every block was looked at; blocks that lie on disk are read for it."""
        ours, theirs = self._ours.anatomy, self._theirs.anatomy
        for index in range(self.depth):
            with ours.resident(index), theirs.resident(index):
                self.look_at(index)
        return self

    def look_at(self, index: int) -> None:
        """Settle all that is asked of block ``index`` (from 0), resident on both sides."""
        for tell in (self.block_tensors, self.block_settings, self.block_arguments):
            tell(index)

    @property
    def configuration(self) -> bool:
        """Whether the configurations are the same in what they make of token ids, once :meth:`settled`. Where they say
        different things of the computation and r_0 differs too, it is not told which made it: they differ."""
        if self._one_model or not differing_keys(*(settings_of(side) for side in self._sides)):
            return True
        return (
            self.readout_settings
            and self.embedded
            and all(self.block_settings(index) and self.block_arguments(index) for index in range(self.depth))
        )

    def places(self) -> BoolArray:
        """(M,) places of an account that are the same: embeddings, block 1..D, read-out, and last, only where it
        differs, the configuration. Where it differs the other places are told by their tensors: every hybrid runs them
        under one configuration."""
        if self.configuration:
            blocks = [self.block(index) for index in range(self.depth)]
            ends = [self.embedding_tensors and self.embedded, self.readout_tensors and self.readout_settings]
            return np.array([ends[0], *blocks, ends[1]])
        tensors = [self.block_tensors(index) for index in range(self.depth)]
        return np.array([self.embedding_tensors, *tensors, self.readout_tensors, False])


def identical_places(
    ours: Session, theirs: Session, mine_prepared: Sequence[Prepared], theirs_prepared: Sequence[Prepared]
) -> BoolArray:
    """(M,) places of an account that are the same on both sides, M = D + 2, or D + 3 where the configurations differ:
    :meth:`Same.places`. Raises the errors of reading a block from disk."""
    return Same(ours, theirs, mine_prepared, theirs_prepared).settled().places()


def _arguments(prepared: Prepared, index: int) -> tuple[Any, ...]:
    call = prepared.calls[index]
    return call.args, call.kwargs, call.keyword


def settings_of(session: Session) -> dict[str, Any]:
    """The configuration of the part that reads text, completed with its defaults, as JSON values."""
    return dict(session.loaded.model.config.get_text_config().to_dict())


def routes(settings: Mapping[str, Any]) -> bool:
    """Whether a configuration gives a block several experts to choose among."""
    return any("experts" in name and isinstance(value, int) and value > 1 for name, value in settings.items())


def _ahead_of_blocks(session: Session) -> dict[str, torch.Tensor]:
    """Parameters of the part that reads text which belong neither to blocks nor to the read-out, by name."""
    anatomy, model = session.anatomy, session.loaded.model
    later = {id(p) for part in (anatomy.blocks, *anatomy.readout, anatomy.head) for p in part.parameters()}
    text = {id(p) for module in text_modules(model) for p in module.parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if id(p) in text - later}
