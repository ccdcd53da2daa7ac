"""Which residual rows are kept at a node, and picking them out of padded batches."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from spinal.engine.session import Session
from spinal.engine.tokens import GatheredRows, Joined
from spinal.engine.walk import Prepared, check_finite, node_residuals, prepare

Tensor = torch.Tensor


class RowGatherer:
    """Keeps, node by node, the rows the lens will read, and hands out all rows the contraction is fitted on.

    N nodes, K gathered rows, width d, n eligible positions (every one but the first) over all prompts.
    """

    def __init__(
        self, prepared: list[Prepared], gathered: GatheredRows, nodes: int, joined: Mapping[int, Joined] | None = None
    ) -> None:
        """``joined`` are the prompts that were read with their continuation behind them: rows of continuations are
        none of theirs, but for those kept at the last node."""
        slot = {(int(p), int(t)): k for k, (p, t) in enumerate(zip(gathered.prompt, gathered.position, strict=True))}
        by_prompt: dict[int, list[int]] = {}
        for p, t in slot:
            by_prompt.setdefault(p, []).append(t)
        self._select = [_selection(item, by_prompt, slot) for item in prepared]
        embedded = prepared[0].embedded
        self.rows = torch.empty(
            nodes, len(gathered.prompt), embedded.shape[-1], dtype=embedded.dtype, device=embedded.device
        )
        """(N, K, d) kept rows, in gathered order."""
        self.last = torch.from_numpy(np.flatnonzero(gathered.is_last)).to(embedded.device)
        """(P,) slots of the rows of positions ``last``."""
        self.last_prompt = torch.from_numpy(gathered.prompt[gathered.is_last]).to(embedded.device)
        """(P,) prompt of each of them."""
        self.all_prompt = torch.cat([prompt for _, _, _, prompt in self._select])
        """(n,) prompt of each row that :meth:`add` returns."""
        self._batches = [item.batch for item in prepared]
        self._joined = joined or {}
        self.continued: dict[int, Tensor] = {}
        """By prompt read with its continuation: residuals (t + 1, d) of the last node from the last token of the prompt
        to the last of the t of the continuation."""

    def add(self, node: int, hidden: list[Tensor], source: str) -> Tensor:
        """Keep the rows of ``node`` from its residuals (one (B, T, d) per batch); returns every eligible row (n, d).

        Raises NonFiniteActivations.
        """
        everything = []
        for (keep, slots, eligible, _), residual in zip(self._select, hidden, strict=True):
            flat = residual.reshape(-1, residual.shape[-1])
            if flat.dtype != self.rows.dtype:
                # Some blocks keep the residual wider than the embedding they start from.
                self.rows = self.rows.to(torch.promote_types(flat.dtype, self.rows.dtype))
            self.rows[node, slots] = flat[keep].to(self.rows.dtype)
            everything.append(flat[eligible])
        if node == len(self.rows) - 1:
            for batch, residual in zip(self._batches, hidden, strict=True):
                for row, member in enumerate(batch.members):
                    if member in self._joined:
                        ids, start = self._joined[member]
                        self.continued[member] = residual[row, start - 1 : len(ids)].clone()
        pooled = torch.cat(everything)
        check_finite(pooled, node, source)
        return pooled


def gather_rows(session: Session, source: str) -> tuple[RowGatherer, Iterator[Tensor]]:
    """The keeper of the rows, and every eligible row (n, d) of node 0, 1, .. D as the walk comes to it; ``source`` is
    what errors call the model. Rows of a node are kept once it was handed out.

    Raises ArchitectureUnsupported at once, NonFiniteActivations and NonFiniteWeights on the way.
    """
    joined = session.joined
    ids = tuple(joined[row][0] if row in joined else own for row, own in enumerate(session.tokens.ids))
    prepared = prepare(session.anatomy, session.batches(ids), source)
    kept = RowGatherer(prepared, session.gathered, session.nodes, joined)
    nodes = enumerate(node_residuals(session.anatomy, prepared))
    return kept, (kept.add(node, hidden, source) for node, hidden in nodes)


def _selection(
    item: Prepared, by_prompt: dict[int, list[int]], slot: dict[tuple[int, int], int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Flat indices of the kept rows and their slots; flat indices of all eligible rows and their prompts."""
    width = item.batch.input_ids.shape[1]
    keep: list[int] = []
    slots: list[int] = []
    eligible: list[int] = []
    prompt: list[int] = []
    for row, member in enumerate(item.batch.members):
        # The last position of a prompt is always kept; what stands behind it is no part of the prompt.
        length = max(by_prompt[member]) + 1
        for position in by_prompt[member]:
            keep.append(row * width + position)
            slots.append(slot[(member, position)])
        eligible.extend(range(row * width + 1, row * width + length))
        prompt.extend([member] * (length - 1))
    device = item.embedded.device
    return tuple(torch.tensor(values, dtype=torch.long, device=device) for values in (keep, slots, eligible, prompt))  # type: ignore[return-value]  # four lists in, four tensors out
