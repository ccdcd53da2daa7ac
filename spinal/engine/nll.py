"""Held-out NLL: of the prompts' own continuations where the set has them, else of the prompts at lens positions."""

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.session import Session
from spinal.engine.tokens import Batch
from spinal.engine.transport import read_lens
from spinal.engine.walk import node_residuals, prepare
from spinal.errors import Cancelled

Array = npt.NDArray[np.float64]


def row_targets(session: Session) -> torch.Tensor:
    """(K,) id of the token that follows each gathered row inside its prompt, -1 after the last."""
    ids, gathered = session.tokens.ids, session.gathered
    targets = [
        ids[p][t + 1] if t + 1 < len(ids[p]) else -1
        for p, t in zip(gathered.prompt.tolist(), gathered.position.tolist(), strict=True)
    ]
    return torch.tensor(targets, dtype=torch.long, device=session.device)


def continuation_nll(session: Session) -> dict[int, float] | None:
    """Nats per token of the continuation of the first ``continuation_prompts`` prompts that have one, by prompt
    index; None when the set has none. At least half of what is read stays with the prompt.

    Raises ArchitectureUnsupported, Cancelled.
    """
    pairs = session.tokens.continuations
    if not pairs:
        return None
    members = list(pairs)
    values: dict[int, float] = {}
    batches = session.batches(tuple(pairs[i][0] for i in members))
    for batch, final in zip(batches, _final_residuals(session, batches), strict=True):
        for row, member in enumerate(batch.members):
            index = members[member]
            ids, start = pairs[index]
            targets = torch.tensor(ids[start:], dtype=torch.long, device=session.device)
            lens = read_lens([(session.readout, final[row : row + 1, start - 1 : len(ids) - 1])], [], targets=targets)
            if lens.target_nll is None:
                raise AssertionError("targets were given")
            values[index] = float(lens.target_nll.mean())
    return values


def _final_residuals(session: Session, batches: list[Batch]) -> list[torch.Tensor]:
    """r_D (B, T, d) of every batch, all of them through one block at a time."""
    prepared = prepare(session.anatomy, batches, session.source)
    residuals: list[torch.Tensor] = []
    for hidden in node_residuals(session.anatomy, prepared):
        if session.reporter.cancelled():
            raise Cancelled("cancelled in phase nll")
        residuals = hidden
    return residuals
