"""The gate every trace passes: the lens at the last node must be the model's own output.

The model's own forward is run on a few prompts; only the rows that reach its head are narrowed to the positions
compared, so that no tokens-by-vocabulary matrix is made. Where the weights are stored in 16 bits, the model's own
final norm and head are redone in float32 on the way: a 16-bit logit is rounded by as much as the gate allows in all.
What the model does around them (a second norm, a logit scale, a softcap) stays its own code.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from spinal.engine.session import Session
from spinal.engine.tokens import make_batches
from spinal.engine.transport import VOCABULARY_BLOCK, Readout, in_float32
from spinal.errors import LensParityFailed

Tensor = torch.Tensor
PROMPTS = 4
POSITIONS = 4
SAME_PRODUCT = 0.05
"""Largest difference, as a share of the largest logit, between a 16-bit head and its product in float32."""


def check_parity(session: Session, rows: Tensor) -> float:
    """Mean Fisher-Rao distance (radians) between lens(r_D) and the model's own output at up to ``POSITIONS``
    positions of each of the ``PROMPTS`` longest prompts. ``rows`` (N, K, d) are the gathered residuals.

    The distance is that of ``docs/method.md`` ("Transport L"), here in float64 over whole rows of logits, with code of
    its own. Raises LensParityFailed at ``parity_tolerance`` or above.
    """
    readout, tokens, gathered = session.readout, session.tokens, session.gathered
    tolerance = session.profile.parity_tolerance
    chosen = sorted(range(len(tokens.ids)), key=lambda i: (len(tokens.ids[i]), i))[-PROMPTS:]
    slots = [(gathered.prompt == index).nonzero()[0] for index in chosen]
    each = min([POSITIONS, *map(len, slots)])
    picked = np.stack([mine[np.linspace(0, len(mine) - 1, each).round().astype(int)] for mine in slots])
    where = torch.from_numpy(gathered.position[picked]).to(rows.device)
    own = _own_logits(session, tuple(tokens.ids[index] for index in chosen), where)
    normed = readout.normed(rows[-1, torch.from_numpy(picked.reshape(-1)).to(rows.device)])
    lens = readout.logits(normed, 0, readout.vocabulary).view(own.shape)
    overlap = (0.5 * (own.double().log_softmax(-1) + lens.double().log_softmax(-1))).logsumexp(-1)
    distance = float((2.0 * torch.acos(overlap.exp().clamp(max=1.0))).mean())
    if not distance < tolerance:
        raise LensParityFailed(
            f"{session.source}: lens and model differ by {distance:.2g} rad, allowed {tolerance:g}",
            hint="this architecture does something between last block and logits that the lens does not reproduce",
            parity_rad=distance,
        )
    return distance


def _own_logits(session: Session, ids: tuple[tuple[int, ...], ...], where: Tensor) -> Tensor:
    """(B, K, V) logits of the model's own forward on B prompts, shortest first, at positions ``where`` (B, K)."""
    readout = session.readout
    if session.lengths_apart and len(ids) > 1:
        return torch.cat([_own_logits(session, (one,), at[None]) for one, at in zip(ids, where, strict=True)])
    (batch,) = make_batches(ids, len(ids), session.device)
    head = readout.anatomy.head
    with readout.anatomy.callable(), _narrowed(head, where), _exact(readout, where):
        logits: Tensor = session.loaded.model(input_ids=batch.input_ids, use_cache=False).logits
    return logits[..., : readout.vocabulary]


def _taken(hidden: Tensor, where: Tensor) -> Tensor:
    """Rows (B, K, d) of hidden (B, T, d)."""
    return hidden[torch.arange(len(where), device=hidden.device)[:, None], where]


@contextlib.contextmanager
def _narrowed(head: nn.Module, where: Tensor) -> Iterator[None]:
    """Only the rows ``where`` reach the head."""
    handle = head.register_forward_pre_hook(lambda _module, args: (_taken(args[0], where), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _exact(readout: Readout, where: Tensor) -> Iterator[None]:
    """The modules between last block and logits give their output in float32, whatever their weights are stored in."""
    handles = []
    redoing = False
    normed: list[Tensor] = []

    def attach(module: nn.Module, dtype: torch.dtype) -> None:
        given: list[Tensor] = []

        def keep(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            if redoing:
                return None
            # A model may round what the final norm gave before its head reads it: take what it gave.
            exact = _taken(normed[-1], where) if module is readout.anatomy.head and normed else args[0].float()
            given.append(exact if torch.equal(exact.to(args[0].dtype), args[0]) else args[0].float())
            return (args[0].to(dtype), *args[1:])

        def redo(_module: nn.Module, _args: Any, output: Tensor) -> Tensor | None:
            nonlocal redoing
            if redoing:  # the module called once more, by the line below
                return None
            redoing = True
            try:
                if module is readout.anatomy.head:
                    return _product(readout, given.pop(), output)
                normed.append(in_float32(module, given.pop()))
                return normed[-1]
            finally:
                redoing = False

        handles.extend([module.register_forward_pre_hook(keep), module.register_forward_hook(redo)])

    for module in (*readout.anatomy.readout, readout.anatomy.head):
        dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
        if dtype != torch.float32:
            attach(module, dtype)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _product(readout: Readout, hidden: Tensor, output: Tensor) -> Tensor:
    """The head's product in float32, a block of ids at a time; ``output`` unchanged where it is something else."""
    rows = readout.anatomy.vocabulary
    blocks = range(0, rows, VOCABULARY_BLOCK)
    exact = torch.cat([readout.product(hidden, i, min(i + VOCABULARY_BLOCK, rows)) for i in blocks], dim=-1)
    same = exact.shape == output.shape and bool(
        (exact - output.float()).abs().max() <= SAME_PRODUCT * exact.abs().max()
    )
    return exact if same else output.float()
