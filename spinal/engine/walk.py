"""All prompts through one block at a time, each block read once (``docs/architecture.md`` ("How a model is measured")).

A first cheap pass runs the model's own forward with every block replaced by a recorder that passes the
residual through: it yields r_0 and the arguments (masks, rotary tables, position biases) that each block
receives. Replaying the blocks with them reproduces the ordinary forward bit for bit, and only the residuals
of one node are held.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spinal.engine.anatomy import Anatomy, Handover, replaced_forward, residual_of, taken_residual
from spinal.engine.tokens import Batch
from spinal.errors import ArchitectureUnsupported, NonFiniteActivations

Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class BlockCall:
    """Arguments of one block in one batch, without the residual itself."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None
    """The one by which the residual travels; None where it comes first."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One batch before the first block: r_0 (B, T, d) and the arguments of every block."""

    batch: Batch
    embedded: Tensor
    calls: tuple[BlockCall, ...]


def prepare(anatomy: Anatomy, batches: Sequence[Batch], source: str) -> list[Prepared]:
    """r_0 and block arguments of every batch; ``source`` is what errors call the model. Raises ArchitectureUnsupported
    when blocks cannot be replayed."""
    return [_prepare_one(anatomy, batch, source) for batch in batches]


def _prepare_one(anatomy: Anatomy, batch: Batch, source: str) -> Prepared:
    calls: list[BlockCall] = []
    residuals: list[Tensor] = []

    def recording(handover: Handover) -> Callable[..., Any]:
        def recorder(*args: Any, **kwargs: Any) -> Any:
            hidden, keyword = taken_residual(args, kwargs)
            residuals.append(hidden)
            others = {name: value for name, value in kwargs.items() if name != keyword}
            calls.append(BlockCall(tuple(args[1:]), others, keyword))
            return handover.holding(hidden)

        return recorder

    with replaced_forward(anatomy.blocks, [recording(handover) for handover in anatomy.handovers]):
        anatomy.core(input_ids=batch.input_ids, use_cache=False)
    if len(calls) != len(anatomy.blocks) or any(not torch.equal(residuals[0], other) for other in residuals[1:]):
        raise ArchitectureUnsupported(
            f"{source}: its blocks cannot be replayed one at a time",
            hint="only models whose blocks act on one residual stream in order have a depth trace",
        )
    return Prepared(batch, residuals[0], tuple(calls))


def run_block(anatomy: Anatomy, index: int, hidden: Tensor, call: BlockCall) -> Tensor:
    """Residual after block ``index`` (from 0) for the residual (B, T, d) before it."""
    block = anatomy.blocks[index]
    if call.keyword is not None:
        return residual_of(block(**{call.keyword: hidden}, **call.kwargs))
    return residual_of(block(hidden, *call.args, **call.kwargs))


def node_residuals(anatomy: Anatomy, prepared: Sequence[Prepared]) -> Iterator[list[Tensor]]:
    """Residuals r_0, r_1, .. r_D, one (B, T, d) per batch: all prompts through one block at a time. The list
    that is handed out is the one that is moved on: copy what must outlive the turn.

    Raises NonFiniteWeights and WeightsCorrupt where blocks are read from disk.
    """
    hidden = [item.embedded for item in prepared]
    yield hidden
    for block in range(len(anatomy.blocks)):
        with anatomy.resident(block):
            for index, item in enumerate(prepared):
                hidden[index] = run_block(anatomy, block, hidden[index], item.calls[block])
        yield hidden


def check_finite(hidden: Tensor, node: int, source: str) -> None:
    """Raise NonFiniteActivations naming the node where the residual stopped being finite."""
    if not bool(torch.isfinite(hidden).all()):
        raise NonFiniteActivations(
            f"{source}: residual after block {node} holds NaN or infinity",
            hint="the weights overflow in this dtype; try dtype float32, or an earlier checkpoint",
        )
