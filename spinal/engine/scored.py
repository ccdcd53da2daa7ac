"""Next-token distributions at scored tokens: NLL, entropy and end tokens, and the NLL at other temperatures.

One streaming pass over vocabulary blocks, as :mod:`spinal.engine.transport` makes it: per row the mass of the
distribution at every temperature is carried, relative to a running maximum of the logits. Sums are float64.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.documents.temperatures import TEMPERATURES
from spinal.engine.transport import VOCABULARY_BLOCK, Readout

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
ROWS = 256
"""Rows read at once."""
ITSELF = TEMPERATURES.index(1.0)
"""Place of the model's own temperature in the grid."""


@dataclass(frozen=True, eq=False)
class ScoredRows:
    """n rows, T temperatures; float64."""

    tempered: Array
    """(n, T) -log p of the target with logits divided by each of ``TEMPERATURES``; NaN where there is no target."""
    entropy: Array
    """(n,) nats."""
    end_log_p: Array
    """(n,) log probability that any of the end ids comes next; NaN where there is none."""

    @property
    def nll(self) -> Array:
        """(n,) -log p of the target."""
        return self.tempered[:, ITSELF]


def read_scored(
    readout: Readout, rows: Tensor, targets: Tensor, ends: Sequence[int], check: Callable[[], None]
) -> ScoredRows:
    """Read residuals ``rows`` (n, d) of the last node. ``targets`` (n,): id that came next, -1 for none; ``ends``: ids
    after which text ends. ``check`` is called between pieces, and leaves by raising."""
    parts = []
    for start in range(0, len(rows), ROWS):
        check()
        parts.append(_read_rows(readout, rows[start : start + ROWS], targets[start : start + ROWS], ends))
    tempered, entropy, end_log_p = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return ScoredRows(tempered, entropy, end_log_p)


def _read_rows(readout: Readout, rows: Tensor, targets: Tensor, ends: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    normed = readout.normed(rows)
    count, device = len(rows), normed.device
    betas = torch.tensor([1.0 / tau for tau in TEMPERATURES], dtype=torch.float64, device=device)
    maximum = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
    mass = torch.zeros(len(betas), count, dtype=torch.float64, device=device)
    weighted, ending = torch.zeros_like(maximum), torch.zeros_like(maximum)
    target = torch.full_like(maximum, torch.nan)
    for first in range(0, readout.vocabulary, VOCABULARY_BLOCK):
        stop = min(first + VOCABULARY_BLOCK, readout.vocabulary)
        logits = readout.logits(normed, first, stop)
        here = (targets >= first) & (targets < stop)
        picked = logits.gather(1, (targets.clamp(first, stop - 1) - first).unsqueeze(1)).squeeze(1)
        target = torch.where(here, picked.double(), target)
        top = torch.maximum(maximum, logits.amax(-1).double())
        # Before the first block there is no mass to move to the new maximum.
        moved = torch.zeros_like(top) if first == 0 else maximum - top
        factor = moved.exp()
        weighted = factor * (weighted + mass[ITSELF] * moved)
        ending = factor * ending
        mass *= torch.exp(betas[:, None] * moved)
        maximum = top
        shifted = logits - top.float().unsqueeze(-1)
        for place, beta in enumerate(betas.tolist()):
            shares = torch.exp(shifted * beta)
            mass[place] += shares.sum(-1, dtype=torch.float64)
            if place == ITSELF:
                weighted += (shares * shifted).sum(-1, dtype=torch.float64)
                inside = [index - first for index in ends if first <= index < stop]
                ending += shares[:, inside].sum(-1, dtype=torch.float64)
    log_mass = mass.log()
    tempered = (log_mass + betas[:, None] * (maximum - target)).T
    entropy = log_mass[ITSELF] - weighted / mass[ITSELF]
    end_log_p = ending.log() - log_mass[ITSELF] if ends else torch.full_like(entropy, torch.nan)
    return tempered, entropy, end_log_p
