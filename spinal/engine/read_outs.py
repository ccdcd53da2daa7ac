"""What is read off a stitched model: one number per prompt, from its last residuals (``docs/method.md``).

``kl``: how far the next-token distribution is from the reference's. ``margin``: how much more likely the preferred
answer is than the other. ``refusal``: log-odds that the answer opens as a refusal. All in nats, over the ids that both
sides share, renormalised. All models are read in one pass over the vocabulary: logits in float32, sums in float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.transport import VOCABULARY_BLOCK, Readout

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Ids = tuple[int, ...]
ROWS_AT_ONCE = 1024
"""Residuals of all models together that are multiplied with a block of the unembedding at once."""


@dataclass(frozen=True, eq=False)
class ReadOut:
    """What one account reads: S sequences are fed, K of their positions are read, Q prompts get a number each."""

    name: str
    """``kl``, ``margin`` or ``refusal``."""
    prompts: IntArray
    """(Q,) which prompts of the set."""
    ids: tuple[Ids, ...]
    """(S,) what is fed."""
    sequence: IntArray
    """(K,) from 0, ascending."""
    position: IntArray
    """(K,) from 0."""
    targets: IntArray | None
    """(K,) the id whose log-probability is read; None where divergence from the reference is."""
    fold: Callable[[Array], Array]
    """Values of the rows (..., K) to those of the prompts (..., Q)."""
    dropped: int = 0
    """Prompts that have what is needed and were left out, since not all of it fits."""
    remarks: tuple[str, ...] = ()


def read_rows(groups: Sequence[tuple[Readout, Tensor]], targets: Tensor | None, check: Callable[[], None]) -> Array:
    """(S, K) of residuals (S_g, K, d) seen through their read-outs, states numbered over all groups in order: the
    log-probability of ``targets`` (K,), or without them KL(state 0 || state) in nats. A state that is bit for bit state
    0 under its read-out has a KL of exactly 0. Residuals may lie in host memory: those of a piece are moved to where
    the heads are. ``check`` is called between pieces, and leaves by raising."""
    states, rows = sum(part.shape[0] for _, part in groups), groups[0][1].shape[1]
    at_once, device = max(1, ROWS_AT_ONCE // states), groups[0][0].anatomy.head_weight.device
    pieces = []
    for start in range(0, rows, at_once):
        check()
        piece = [(readout, part[:, start : start + at_once].to(device)) for readout, part in groups]
        pieces.append(_read_piece(piece, None if targets is None else targets[start : start + at_once]))
    return torch.cat(pieces, dim=1).cpu().numpy() if pieces else np.empty((states, 0))


def _read_piece(groups: Sequence[tuple[Readout, Tensor]], targets: Tensor | None) -> Tensor:
    rows = groups[0][1].shape[1]
    normed = [readout.normed(part.reshape(-1, part.shape[-1])) for readout, part in groups]
    running = _Running(sum(part.shape[0] for _, part in groups), rows, targets, normed[0].device)
    vocabulary = groups[0][0].vocabulary
    for start in range(0, vocabulary, VOCABULARY_BLOCK):
        stop = min(start + VOCABULARY_BLOCK, vocabulary)
        logits = torch.cat(
            [readout.logits(part, start, stop).view(-1, rows, stop - start)
             for (readout, _), part in zip(groups, normed, strict=True)]
        )  # fmt: skip
        running.absorb(logits.double(), start)
    if targets is not None:
        return running.log_probability()
    first = groups[0][1][0]
    equal = [(part == first).all(-1) & (readout is groups[0][0]) for readout, part in groups]
    # A row's product depends on its place in the matrix by one rounding; equal rows are equal.
    return running.divergence().masked_fill_(torch.cat(equal), 0.0)


class _Running:
    """Carried sums over the ids so far, float64: of S states and K rows the mass exp(z - m) under a maximum m that
    moves, and either the logit of the target or, under state 0, the mean of z - z_0."""

    def __init__(self, states: int, rows: int, targets: Tensor | None, device: torch.device) -> None:
        self.maximum = torch.full((states, rows), -torch.inf, dtype=torch.float64, device=device)
        self.mass = torch.zeros_like(self.maximum)
        self.other = torch.zeros_like(self.maximum)
        self.targets = targets

    def absorb(self, logits: Tensor, first_id: int) -> None:
        """Merge logits (S, K, v) of ids first_id, first_id + 1, ..."""
        maximum = torch.maximum(self.maximum, logits.amax(dim=-1))
        factor = torch.exp(self.maximum - maximum)
        weights = torch.exp(logits - maximum.unsqueeze(-1))
        self.mass = self.mass * factor + weights.sum(-1)
        self.maximum = maximum
        if self.targets is None:
            apart = logits - logits[0]
            self.other = self.other * factor[0] + torch.einsum("kv,skv->sk", weights[0], apart)
        else:
            width = logits.shape[-1]
            here = (self.targets >= first_id) & (self.targets < first_id + width)
            places = (self.targets - first_id).clamp(0, width - 1).expand(len(logits), -1)
            picked = logits.gather(2, places.unsqueeze(-1)).squeeze(-1)
            self.other = torch.where(here, picked, self.other)

    def log_mass(self) -> Tensor:
        return self.maximum + self.mass.log()

    def log_probability(self) -> Tensor:
        """(S, K) of the targets."""
        return self.other - self.log_mass()

    def divergence(self) -> Tensor:
        """(S, K) KL(state 0 || state)."""
        total = self.log_mass()
        return total - total[0] - self.other / self.mass[0]


def log_odds(log_probability: Array) -> Array:
    """log P - log(1 - P), stable for P near 0; P is kept below 1 by one rounding.

    Examples
    --------
    >>> log_odds(np.log(np.array([0.5, 0.75]))).round(6).tolist()
    [0.0, 1.098612]
    """
    below = np.minimum(log_probability, -np.finfo(np.float64).eps)
    return below - np.log(-np.expm1(below))
