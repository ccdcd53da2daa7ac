"""Four properties of a model that every number rests on, tried on a prompt before anything is measured.

*Causal*: a row may not depend on what follows it, since prompts are padded on the right without a mask. The probe is
run again with its last token changed, with everything after the first changed, with padding, and with padding beside
another prompt, as the engine batches prompts; no earlier row may move.

*Replayed equals own*: blocks that run one at a time with recorded arguments, as they are measured, give bit for bit
what the model's own forward gives.

*Streamed equals whole*: where blocks are read from disk, each gives bit for bit what the same block gives as
transformers itself reads it (:mod:`spinal.engine.second`). With the property above: every residual of the probe is that
of the model loaded whole. Weights outside the blocks are resident either way, and read once.

*Alone equals batched*: the rows of a prompt are the same beside longer prompts, up to rounding.

Every variant goes through a block while the model's own pass is in it, so that a block read from disk is read once.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from spinal.checkpoints.architecture import attends_later
from spinal.engine.anatomy import Anatomy, replaced_forward, residual_of, taken_residual
from spinal.engine.failures import architecture_failures
from spinal.engine.load import LoadedModel
from spinal.engine.second import not_the_same, second_reading
from spinal.engine.tokens import Batch
from spinal.engine.walk import BlockCall, prepare, run_block
from spinal.errors import ArchitectureUnsupported

Tensor = torch.Tensor
PROBE_TOKENS = 64
"""The probe is the longest prompt, cut to so many tokens where the length of a pass changes nothing."""
EXACT = 1e-4
"""Largest relative change of a float32 row that is rounding. A dense causal model changes by exactly 0; a mixture of
experts sums other rows together, and gives 1e-6. A model that attends to later tokens gives 1e-2 to 1."""
ROUNDED = 1e-2
"""The same in 16 bits: 2^-8 of rounding, and as much again where an accelerator adds up experts in any order."""
RESIZED = 2e-2
"""The same in 16 bits for the middle one of the rows of a batch of another shape, where every value is rounded anew."""


@dataclass(eq=False)
class _Variant:
    """The probe's first ``shared`` tokens with something else after them, on its way through the blocks."""

    calls: tuple[BlockCall, ...]
    hidden: Tensor
    """(B, T, d); row 0 is the one compared."""
    shared: int
    resized: bool
    """Whether it has another shape than the probe: rows then differ by rounding, in 16 bits sometimes by an expert."""
    said: str
    """What was changed, for the error."""
    moved: float = 0.0
    """Largest relative change seen so far."""

    def compare(self, own: Tensor) -> None:
        """Note by how much the shared rows differ from the probe's ``own`` (1, T, d), then make them equal: what a
        block does is judged on equal input, so that rounding never adds up."""
        mine, other = self.hidden[0, : self.shared], own[0, : self.shared]
        if torch.equal(mine, other):
            return
        change = _change(mine, other)
        self.moved = max(self.moved, float(change.median() if self.resized else change.max()))
        self.hidden = self.hidden.clone()
        self.hidden[0, : self.shared] = other


def check_probes(
    loaded: LoadedModel, anatomy: Anatomy, prompts: Sequence[Sequence[int]], *, follows_length: bool
) -> bool:
    """Try the four properties on the longest of ``prompts`` (token ids of each, two or more), cut to ``PROBE_TOKENS``
    unless the model's frequencies follow the length of a pass (``follows_length``).

    Returns whether rows depend on the length of their batch although nothing later is attended to: prompts of
    different lengths may then not share one.

    Raises ArchitectureUnsupported, and the errors of reading a block from disk.
    """
    source, device = loaded.checkpoint.source, loaded.device
    probe = tuple(max(prompts, key=len)[: None if follows_length else PROBE_TOKENS])
    shorter = min(len(probe) // 2, *map(len, prompts))
    made = _made_of(probe, max(1, shorter))
    batches = [_batch(rows, device) for rows in ((probe,), *(rows for rows, _, _ in made))]
    with second_reading(loaded, anatomy) as second, architecture_failures(source):
        own, *others = prepare(anatomy, batches, source)
        variants = [
            _Variant(item.calls, item.embedded, shared, item.embedded.shape != own.embedded.shape, said)
            for item, (_, shared, said) in zip(others, made, strict=True)
        ]
        for variant in variants:
            variant.compare(own.embedded)
        with _in_step(anatomy, own.calls, variants, second, source):
            anatomy.core(input_ids=own.batch.input_ids, use_cache=False)
    return _judge(variants, _float32(anatomy), source)


def _made_of(probe: tuple[int, ...], shorter: int) -> list[tuple[tuple[tuple[int, ...], ...], int, str]]:
    """Token ids of each variant by row, how many of the first it shares with the probe, and what was changed."""
    alphabet = sorted({0, 1, *probe})
    following = dict(zip(alphabet, [*alphabet[1:], alphabet[0]], strict=True))
    other = tuple(following[token] for token in probe)
    padded = probe[:shorter] + (0,) * (len(probe) - shorter)
    return [
        ((probe[:-1] + other[-1:],), len(probe) - 1, "with another last token"),
        ((probe[:1] + other[1:],), 1, "with other tokens after the first"),
        ((padded,), shorter, "with padding after its first part"),
        ((padded, other), shorter, "padded beside a longer prompt"),
        ((probe[:shorter],), shorter, "alone"),
    ]


def _batch(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Batch:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Batch(tuple(range(len(rows))), lengths, torch.tensor(rows, dtype=torch.long, device=device))


def _float32(anatomy: Anatomy) -> bool:
    return all(parameter.dtype == torch.float32 for parameter in anatomy.blocks.parameters())


@contextmanager
def _in_step(
    anatomy: Anatomy,
    calls: tuple[BlockCall, ...],
    variants: list[_Variant],
    second: Anatomy | None,
    source: str,
) -> Iterator[None]:
    """Inside this context a forward pass of the model takes the variants with it, block by block; ``second`` has its
    blocks read otherwise, if they were."""
    visited: list[int] = []
    busy = False

    def stepping(index: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def passed(*args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if busy:  # one of the calls below
                return original(*args, **kwargs)
            with anatomy.resident(index):
                busy = True
                try:
                    output = original(*args, **kwargs)
                    visited.append(index)
                    own = residual_of(output)
                    given = taken_residual(args, kwargs)[0]
                    if not _same(run_block(anatomy, index, given, calls[index]), own):
                        raise _not_replayed(source, f"block {index + 1} alone does not give what it gives in a pass")
                    if second is not None and not _same(run_block(second, index, given, calls[index]), own):
                        raise not_the_same(source, index)
                    for variant in variants:
                        variant.hidden = run_block(anatomy, index, variant.hidden, variant.calls[index])
                        variant.compare(own)
                finally:
                    busy = False
            return output

        return passed

    with replaced_forward(anatomy.blocks, [stepping(i, block.forward) for i, block in enumerate(anatomy.blocks)]):
        yield
    if visited != list(range(len(anatomy.blocks))):
        raise _not_replayed(source, "its blocks are not passed once each, in order")


def _same(again: Tensor, own: Tensor) -> bool:
    """Bit for bit on a CPU; accelerators add up a mixture of experts in any order. Overflow is told by the walk."""
    if torch.equal(again, own) or not bool(torch.isfinite(own).all()):
        return True
    return own.device.type != "cpu" and bool(_change(again, own).max() <= ROUNDED)


def _change(ours: Tensor, own: Tensor) -> Tensor:
    """(..., T) relative change of each row."""
    return (ours.double() - own.double()).norm(dim=-1) / own.double().norm(dim=-1).clamp(min=1e-30)


def _not_replayed(source: str, why: str) -> ArchitectureUnsupported:
    return ArchitectureUnsupported(
        f"{source}: its blocks cannot be replayed one at a time ({why})",
        hint="only models whose blocks act on one residual stream in order have a depth trace",
    )


def _judge(variants: list[_Variant], float32: bool, source: str) -> bool:
    def moved(variant: _Variant) -> bool:
        rounding = RESIZED if variant.resized else ROUNDED
        return variant.moved > (EXACT if float32 else rounding)

    *changed, beside, alone = variants
    for variant in changed:
        if moved(variant):
            raise attends_later(source, f"{variant.said}, a prompt's earlier rows move {_by(variant)}")
    if moved(beside):
        raise ArchitectureUnsupported(
            f"{source}: {beside.said}, the rows of a prompt move {_by(beside)}",
            hint="only models that read each prompt of a batch by itself have a depth trace",
        )
    return moved(alone)


def _by(variant: _Variant) -> str:
    return f"by {variant.moved:.2g} of their length"
