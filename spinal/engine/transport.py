"""Next-token distributions at every node, and distances between them, without ever holding one.

L = 4 asin(c / 2) with c^2 = sum_v (sqrt p - sqrt q)^2, equal to 2 arccos BC, in one streaming pass over
vocabulary blocks (``docs/method.md`` ("Transport L")). Per state four scalars are carried; a block is merged by
rescaling when a running maximum moves, so blocks may come in any order and size.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.anatomy import Anatomy
from spinal.engine.slices import slices

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
VOCABULARY_BLOCK = 1024
TOKEN_BLOCK = 64


@dataclass(frozen=True, eq=False)
class Readout:
    """A model's own way from residual to logits, over the first ``vocabulary`` ids."""

    anatomy: Anatomy
    vocabulary: int

    def normed(self, rows: Tensor) -> Tensor:
        """Rows (n, d) before the head, float32; norms are computed in float32 whatever the weights' dtype."""
        hidden = rows.float()
        for module in self.anatomy.readout:
            hidden = in_float32(module, hidden)
        return hidden

    def product(self, normed: Tensor, start: int, stop: int) -> Tensor:
        """The head alone: products with its rows start..stop-1 plus bias, float32."""
        bias = getattr(self.anatomy.head, "bias", None)
        weight = self.anatomy.head_weight[start:stop].float()
        return torch.nn.functional.linear(normed, weight, None if bias is None else bias[start:stop].float())

    def logits(self, normed: Tensor, start: int, stop: int) -> Tensor:
        """Logits (n, stop - start) of ids start..stop-1: bias -> scale -> softcap, float32."""
        out = self.product(normed, start, stop)
        if self.anatomy.scale != 1.0:
            out = out * self.anatomy.scale
        if self.anatomy.softcap is not None:
            out = torch.tanh(out / self.anatomy.softcap) * self.anatomy.softcap
        return out


def readout_digest(readout: Readout) -> str:
    """sha256 over the values of final norm, head and post-processing, as float32: equal for equal read-outs, wherever
    and in whatever dtype the same values are stored. Rows of the head that are not read do not enter."""
    hasher = hashlib.sha256(repr((readout.anatomy.scale, readout.anatomy.softcap, readout.vocabulary)).encode())
    for module in (*readout.anatomy.readout, readout.anatomy.head):
        for name, tensor in sorted(module.state_dict().items()):
            hasher.update(name.encode())
            of_ids = module is readout.anatomy.head and tensor.shape[:1] == (readout.anatomy.vocabulary,)
            for part in slices(tensor.detach()[: readout.vocabulary] if of_ids else tensor.detach()):
                hasher.update(part.float().cpu().contiguous().numpy().data)
    return hasher.hexdigest()


def in_float32(module: torch.nn.Module, hidden: Tensor) -> Tensor:
    """Output of a module on float32 input (n, d) with its parameters read as float32."""
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    if dtype == torch.float32:
        return module(hidden)
    state = {name: tensor.float() for name, tensor in module.state_dict(keep_vars=False).items()}
    return torch.func.functional_call(module, state, (hidden,))


def mass_outside(readout: Readout, rows: Tensor, check: Callable[[], None]) -> Array:
    """(K,) share of the probability of all rows of the head that ids beyond ``vocabulary`` hold, float64; for residuals
    ``rows`` (K, d)."""
    total = readout.anatomy.vocabulary
    parts = []
    for start in range(0, len(rows), TOKEN_BLOCK):
        check()
        normed = readout.normed(rows[start : start + TOKEN_BLOCK])
        inside = _log_mass(readout, normed, 0, readout.vocabulary)
        outside = _log_mass(readout, normed, readout.vocabulary, total)
        parts.append(torch.sigmoid(outside - inside))
    return torch.cat(parts).cpu().numpy()


def _log_mass(readout: Readout, normed: Tensor, first: int, end: int) -> Tensor:
    """(K,) log of the summed exponentials of the logits of ids first..end-1, float64."""
    mass = torch.full((len(normed),), -torch.inf, dtype=torch.float64, device=normed.device)
    for start in range(first, end, VOCABULARY_BLOCK):
        logits = readout.logits(normed, start, min(start + VOCABULARY_BLOCK, end)).double()
        mass = torch.logaddexp(mass, logits.logsumexp(-1))
    return mass


@dataclass(frozen=True, eq=False)
class LensResult:
    """S states, K rows, J pairs; float64."""

    distance: Array
    """(J, K) radians in [0, pi]."""
    entropy: Array
    """(S, K) nats."""
    max_probability: Array
    """(S, K)"""
    argmax: npt.NDArray[np.int64]
    """(S, K) token id."""
    target_nll: Array | None
    """(K,) -log p of the target token under the last state; NaN where there is no target."""

    @property
    def nbytes(self) -> int:
        arrays = (self.distance, self.entropy, self.max_probability, self.argmax, self.target_nll)
        return sum(array.nbytes for array in arrays if array is not None)

    def part(self, pairs: slice, states: slice) -> "LensResult":
        """Those of the pairs and states, with the targets' under the last of all states."""
        read = (self.entropy[states], self.max_probability[states], self.argmax[states])
        return LensResult(self.distance[pairs], *read, self.target_nll)


class KeptLogits:
    """Logits of states (S, K, d) under one read-out, piece by piece as :func:`read_lens` makes them, kept the first
    time and found again from then on."""

    def __init__(self, nbytes: int) -> None:
        """``nbytes``: what all pieces will take."""
        self.nbytes = nbytes
        self._pieces: dict[tuple[int, int], Tensor] = {}

    @property
    def complete(self) -> bool:
        """Whether every piece is there."""
        return sum(piece.nbytes for piece in self._pieces.values()) == self.nbytes

    def piece(self, row: int, first_id: int, make: Callable[[], Tensor]) -> Tensor:
        """The piece that begins at a row and an id, which must not be written to."""
        found = self._pieces.get((row, first_id))
        if found is None:
            found = self._pieces[row, first_id] = make()
        return found


def steps(nodes: int) -> list[tuple[int, int]]:
    """The pairs of states whose distance is L, for states r_0 .. r_D in order; ``nodes`` is N = D + 1.

    Examples
    --------
    >>> steps(3)
    [(0, 1), (1, 2)]
    """
    return [(node, node + 1) for node in range(nodes - 1)]


def _go_on() -> None:
    """Nobody cancels."""


def read_lens(
    groups: Sequence[tuple[Readout, Tensor]],
    pairs: Sequence[tuple[int, int]],
    *,
    targets: Tensor | None = None,
    check: Callable[[], None] = _go_on,
    kept: Sequence[KeptLogits | None] | None = None,
) -> LensResult:
    """Read every state and the distance of every pair of states.

    ``groups``: read-out and residuals (S_g, K, d) seen through it; states are numbered over all groups in
    order. ``pairs``: (i, j) state indices. ``targets`` (K,): token id per row, -1 for none. ``check`` is called
    between pieces of ``TOKEN_BLOCK`` rows, and leaves by raising. ``kept``: by group, where its logits are kept and
    found again; None for a group whose logits are not. Rows that are bit for bit equal under one read-out are at
    distance exactly 0.
    """
    rows = groups[0][1].shape[1]
    parts = []
    for start in range(0, rows, TOKEN_BLOCK):
        check()
        stop = min(start + TOKEN_BLOCK, rows)
        block = [
            _Group(readout, states[:, start:stop], logits, start)
            for (readout, states), logits in zip(groups, kept or [None] * len(groups), strict=True)
        ]
        parts.append(_read_block(block, pairs, None if targets is None else targets[start:stop]))

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts], axis=-1)

    return LensResult(
        joined("distance"),
        joined("entropy"),
        joined("max_probability"),
        joined("argmax"),
        None if targets is None else joined("target_nll"),
    )


def read_gap(
    reference: tuple[Readout, Tensor],
    candidate: tuple[Readout, Tensor],
    check: Callable[[], None],
    kept: KeptLogits | None = None,
) -> LensResult:
    """Distance (N, K) of the same nodes of two models, each (N, K, d) through its own lens; the states of the result
    are node D of the reference and of the candidate. ``kept`` is where logits of the reference are found.

    Both sides are products of their own, of equal shape: equal rows then give equal logits, bit for bit.
    """
    nodes = len(reference[1])
    pairs = [(node, nodes + node) for node in range(nodes)]
    found = read_lens([reference, candidate], pairs, check=check, kept=[kept, None])
    return gap_of(found, nodes)


def gap_of(found: LensResult, nodes: int) -> LensResult:
    """:func:`read_gap` out of a pass whose first states are the nodes of the reference and whose next, the last, are
    those of the candidate, the pairs of both the first ``nodes``."""
    return replace(found.part(slice(nodes), slice(nodes - 1, None, nodes)), target_nll=None)


class _Running:
    """The carried scalars of S states (mass A, weighted mass E, maximum m) and J pairs (D), float64."""

    def __init__(self, states: int, rows: int, pairs: Sequence[tuple[int, int]], device: torch.device) -> None:
        self.left = torch.tensor([i for i, _ in pairs], dtype=torch.long, device=device)
        self.right = torch.tensor([j for _, j in pairs], dtype=torch.long, device=device)
        self.maximum = torch.full((states, rows), -torch.inf, device=device)
        self.mass = torch.zeros(states, rows, dtype=torch.float64, device=device)
        self.weighted = torch.zeros_like(self.mass)
        self.gap = torch.zeros(len(pairs), rows, dtype=torch.float64, device=device)
        self.argmax = torch.zeros(states, rows, dtype=torch.long, device=device)

    def absorb(self, logits: Tensor, first_id: int) -> None:
        """Merge logits (S, K, v) of ids first_id, first_id + 1, ..."""
        top = logits.amax(dim=-1)
        higher = top > self.maximum
        if bool(higher.any()):
            # Finding places costs ten times what finding values does, and after a few blocks few rows move.
            self.argmax[higher] = logits[higher].argmax(dim=-1) + first_id
        new_maximum = torch.maximum(self.maximum, top)
        self._rescale(new_maximum)
        shifted = logits.sub_(new_maximum.unsqueeze(-1))
        roots = (shifted * 0.5).exp_()
        squares = roots * roots
        self.mass += squares.sum(-1).double()
        self.weighted += squares.mul_(shifted).sum(-1).double()
        for index, (i, j) in enumerate(zip(self.left.tolist(), self.right.tolist(), strict=True)):
            difference = roots[i] - roots[j]
            self.gap[index] += difference.mul_(difference).sum(-1).double()

    def _rescale(self, new_maximum: Tensor) -> None:
        first = torch.isinf(self.maximum)
        moved = torch.where(first, torch.zeros_like(new_maximum), self.maximum - new_maximum).double()
        factor = torch.exp(moved * 0.5)
        a, b = factor[self.left], factor[self.right]
        left_mass, right_mass = self.mass[self.left], self.mass[self.right]
        self.gap = a * b * self.gap + (a - b) * (a * left_mass - b * right_mass)
        self.weighted = factor**2 * (self.weighted + self.mass * moved)
        self.mass = factor**2 * self.mass
        self.maximum = new_maximum

    def distance(self) -> Tensor:
        left, right = self.mass[self.left], self.mass[self.right]
        chord2 = (self.gap - (left.sqrt() - right.sqrt()) ** 2) / (left * right).sqrt()
        return 4.0 * torch.asin((chord2.clamp(0.0, 2.0).sqrt() / 2.0).clamp(max=1.0))


class _Group:
    """States (S, K, d) of one block of rows under one read-out."""

    def __init__(self, readout: Readout, states: Tensor, kept: KeptLogits | None, row: int) -> None:
        self.readout, self.states = readout, states
        self._kept, self._row = kept, row

    @cached_property
    def _normed(self) -> Tensor:
        return self.readout.normed(self.states.reshape(-1, self.states.shape[-1]))

    def logits(self, start: int, stop: int) -> Tensor:
        """(S, K, stop - start), not to be written to where logits are kept."""
        if self._kept is None:
            return self._made(start, stop)
        return self._kept.piece(self._row, start, lambda: self._made(start, stop))

    def _made(self, start: int, stop: int) -> Tensor:
        states, rows, _ = self.states.shape
        return self.readout.logits(self._normed, start, stop).view(states, rows, stop - start)

    def own(self, start: int, stop: int) -> Tensor:
        """The same as a tensor of the caller's own."""
        logits = self.logits(start, stop)
        return logits if self._kept is None else logits.clone()


def _read_block(groups: Sequence[_Group], pairs: Sequence[tuple[int, int]], targets: Tensor | None) -> LensResult:
    rows, device = groups[0].states.shape[1], groups[0].states.device
    running = _Running(sum(group.states.shape[0] for group in groups), rows, pairs, device)
    vocabulary = groups[0].readout.vocabulary
    target_logit = torch.full((rows,), torch.nan, dtype=torch.float64, device=device)
    for start in range(0, vocabulary, VOCABULARY_BLOCK):
        stop = min(start + VOCABULARY_BLOCK, vocabulary)
        only = len(groups) == 1
        logits = groups[0].own(start, stop) if only else torch.cat([group.logits(start, stop) for group in groups])
        if targets is not None:
            here = (targets >= start) & (targets < stop)
            picked = logits[-1].gather(1, (targets.clamp(min=start, max=stop - 1) - start).unsqueeze(1)).squeeze(1)
            target_logit = torch.where(here, picked.double(), target_logit)
        running.absorb(logits, start)
    return _finish(running, groups, pairs, target_logit if targets is not None else None)


def _finish(
    running: _Running,
    groups: Sequence[_Group],
    pairs: Sequence[tuple[int, int]],
    target_logit: Tensor | None,
) -> LensResult:
    distance = running.distance()
    owner = [(group.readout, state) for group in groups for state in group.states]
    for index, (i, j) in enumerate(pairs):
        if owner[i][0] is owner[j][0]:
            # A row's product depends on its place in the matrix by one rounding; equal rows are equal.
            same = (owner[i][1] == owner[j][1]).all(dim=-1)
            distance[index].masked_fill_(same, 0.0)
    log_mass = running.mass.log()
    nll = None
    if target_logit is not None:
        nll = (running.maximum[-1].double() + log_mass[-1] - target_logit).cpu().numpy()
    return LensResult(
        distance.cpu().numpy(),
        (log_mass - running.weighted / running.mass).cpu().numpy(),
        (1.0 / running.mass).cpu().numpy(),
        running.argmax.cpu().numpy(),
        nll,
    )
