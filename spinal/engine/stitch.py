"""Stitched models: places 1..k from one checkpoint and the rest from the other, all of them in one sweep over blocks.

``docs/method.md`` ("What carries the change"). A stitched model is a mixture: for every place the side that it
comes from. Mixtures with the same beginning share all that the beginning computes, and a place that is the same on
both sides is no place to differ in, so that what would be the same model is one model and is run once. Every block is
entered once, with the residuals of all mixtures waiting in host memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.hybrids import CANDIDATE, REFERENCE, Hybrids
from spinal.engine.tokens import Batch
from spinal.engine.walk import Prepared

Tensor = torch.Tensor
BoolArray = npt.NDArray[np.bool_]
Mixture = str
"""One letter each for the configuration, the embeddings, every block and the read-out: the side that it comes from. A
beginning of it stands for the residual there."""
WAITING_BYTES = 4 * 2**30
"""Host memory for residuals that wait for the next block. Where those of all prompts take more, the prompts go in
several sweeps, each of which enters every block."""
CONFIGURATION = "configuration"


def place_names(depth: int, *, configuration: bool) -> tuple[str, ...]:
    """The places of an account, in order.

    Examples
    --------
    >>> place_names(2, configuration=True)
    ('embeddings', 'block 1', 'block 2', 'read-out', 'configuration')
    """
    blocks = (f"block {number}" for number in range(1, depth + 1))
    return ("embeddings", *blocks, "read-out", *((CONFIGURATION,) if configuration else ()))


@dataclass(frozen=True, eq=False)
class Plan:
    """Which mixtures an account of M places needs.

    Examples
    --------
    >>> plan = Plan(np.array([False, True, False]), np.array([True, True, True]), configuration=False)
    >>> plan.forward
    ('bbbb', 'babb', 'babb', 'baba')
    >>> plan.backward
    ('baba', 'bbba', 'bbba', 'bbbb')
    """

    identical: BoolArray
    """(D + 2,) embeddings, blocks and read-out: places with the same tensors on both sides."""
    fits: BoolArray
    """(D + 2,) places whose tensors can run under the configuration of the other side."""
    configuration: bool
    """Whether the configurations differ, and are the last place."""

    @property
    def depth(self) -> int:
        return len(self.identical) - 2

    @property
    def places(self) -> tuple[str, ...]:
        """Names of the M places."""
        return place_names(self.depth, configuration=self.configuration)

    @cached_property
    def forward(self) -> tuple[Mixture, ...]:
        """(M + 1) F_0..F_M: places 1..k from the candidate, the rest from the reference."""
        count = len(self.places)
        return tuple(self._mixture(CANDIDATE * k + REFERENCE * (count - k)) for k in range(count + 1))

    @cached_property
    def backward(self) -> tuple[Mixture, ...]:
        """(M + 1) B_1..B_{M+1}: places k..M from the candidate, the rest from the reference."""
        count = len(self.places)
        return tuple(self._mixture(REFERENCE * k + CANDIDATE * (count - k)) for k in range(count + 1))

    @cached_property
    def mixtures(self) -> tuple[Mixture, ...]:
        """All of them once, F_0 first."""
        return tuple(dict.fromkeys((*self.forward, *self.backward)))

    def beginnings(self, length: int) -> tuple[Mixture, ...]:
        """Beginnings of that many letters, once each: 2 for r_0, 2 + l for r_l."""
        return tuple(dict.fromkeys(mixture[:length] for mixture in self.mixtures))

    def _mixture(self, sides: str) -> Mixture:
        """Sides of the M places as a mixture. What is the same on both sides counts as the reference's; what fits only
        one configuration comes with it."""
        configuration = sides[-1] if self.configuration else REFERENCE
        letters = [
            REFERENCE if same else side if fits else configuration
            for side, same, fits in zip(sides, self.identical, self.fits, strict=False)
        ]
        return configuration + "".join(letters)


Finish = Callable[[Batch, dict[Mixture, Tensor]], None]
"""Called for every batch with r_D (B, T, d) of every mixture, without the letter of the read-out."""


def sweep(
    hybrids: Hybrids, plan: Plan, batches: Sequence[Batch], finish: Finish, progress: Callable[[int, int], None]
) -> int:
    """Run all mixtures of ``plan``; each residual passes each block in the batch in which it would pass it alone, so
    that equal mixtures are bit for bit equal. ``progress`` is told (blocks entered, of so many), and leaves by raising.
    Returns how many times every block was entered: once where the residuals fit ``WAITING_BYTES``.

    Raises ArchitectureUnsupported, and NonFiniteWeights and WeightsCorrupt where blocks are read from disk.
    """
    parts = _portions(hybrids, plan, batches)
    total = len(parts) * plan.depth
    for number, part in enumerate(parts):
        waiting, prepared = _begin(hybrids, plan, part)
        for index in range(plan.depth):
            progress(number * plan.depth + index, total)
            ends = plan.beginnings(index + 3)
            with hybrids.resident(index, {side for end in ends for side in _needed(hybrids, end)}):
                for at in range(len(part)):
                    waiting[at] = _passed(hybrids, index, ends, waiting[at], prepared, at)
        for batch, states in zip(part, waiting, strict=True):
            finish(batch, states)
    progress(total, total)
    return len(parts)


def _needed(hybrids: Hybrids, end: Mixture) -> set[str]:
    return {end[0], end[-1]} if hybrids.crossed else {end[-1]}


def _begin(
    hybrids: Hybrids, plan: Plan, batches: Sequence[Batch]
) -> tuple[list[dict[Mixture, Tensor]], dict[Mixture, list[Prepared]]]:
    """r_0 of every beginning by batch, and what blocks are called with after each of them."""
    prepared = {start: hybrids.prepared(start[0], start[1], batches) for start in plan.beginnings(2)}
    waiting = [{start: made[at].embedded.cpu() for start, made in prepared.items()} for at in range(len(batches))]
    return waiting, prepared


def _passed(
    hybrids: Hybrids,
    index: int,
    ends: Sequence[Mixture],
    before: dict[Mixture, Tensor],
    prepared: dict[Mixture, list[Prepared]],
    at: int,
) -> dict[Mixture, Tensor]:
    device = hybrids.reference.device
    after = {}
    for end in ends:
        # A block of a large model under all mixtures takes minutes.
        hybrids.reference.reporter.check()
        call = prepared[end[:2]][at].calls[index]
        hidden = before[end[:-1]].to(device)
        after[end] = hybrids.run(end[0], end[-1], index, hidden, call).cpu()
    return after


def _portions(hybrids: Hybrids, plan: Plan, batches: Sequence[Batch]) -> list[list[Batch]]:
    """The batches in portions whose waiting residuals fit ``WAITING_BYTES``."""
    mixtures = len(plan.beginnings(plan.depth + 2))
    width = hybrids.reference.anatomy.head_weight.shape[1]
    each = mixtures * width * hybrids.reference.loaded.dtype.itemsize
    portions: list[list[Batch]] = []
    taken = 0
    for batch in batches:
        size = batch.input_ids.numel() * each
        if not portions or taken + size > WAITING_BYTES:
            portions.append([])
            taken = 0
        portions[-1].append(batch)
        taken += size
    return portions
