"""Block swap: what each block itself now does, free of upstream propagation.

``docs/method.md`` ("Where the change sits").

The reference's input r_{l-1} is fed to the reference's and to the candidate's block l:
rho_l = ||swapped output - reference output|| / ||reference block's own update||.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.assemble import prompt_means
from spinal.engine.same import Same
from spinal.engine.session import Session
from spinal.engine.tokens import Batch, GatheredRows
from spinal.engine.transport import read_lens
from spinal.engine.walk import check_finite, prepare, run_block
from spinal.engine.warm import Lent
from spinal.warm import Warm

Array = npt.NDArray[np.float64]
Tensor = torch.Tensor


@dataclass(frozen=True, eq=False)
class SwapResult:
    """Q prompts, D blocks; 0 where a block is the same on both sides."""

    rho: Array
    """(Q, D), at least 0: mean over the prompt's positions but the first."""
    transport: Array
    """(Q, D) radians: how much longer the step into the block's node becomes, in -pi..pi."""
    prompts: npt.NDArray[np.int64]
    """(Q,) which prompts were swapped, ascending."""
    identical: npt.NDArray[np.bool_]
    """(D,) blocks with the same tensors, configuration and arguments, which were not run."""
    places: npt.NDArray[np.bool_]
    """(M,) places of an account that are the same on both sides (:meth:`spinal.engine.same.Same.places`)."""


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Residuals before the block, after the reference's block and after the candidate's, per batch."""

    before: list[Tensor]
    reference: list[Tensor]
    candidate: list[Tensor]


def block_swap(ours: Session, theirs: Session, span: tuple[float, float], lent: Lent | None = None) -> SwapResult:
    """Swap every block once over a sample of ``swap_prompts`` prompts; blocks that are the same on both sides
    (:mod:`spinal.engine.same`) give exactly 0 without being run. The candidate's block is called as the candidate calls
    it, with its own masks and tables. ``ours`` is the reference, through whose read-out steps are read; ``lent`` holds
    what is known of it already. Progress runs through ``span``.

    Raises NonFiniteActivations, ArchitectureUnsupported, Cancelled.
    """
    lent = lent or Lent(Warm())
    chosen = ours.tokens.sampled(ours.profile.swap_prompts)
    ours = ours.narrowed(chosen)
    reference, candidate = ours.anatomy, theirs.anatomy
    batches = ours.batches()
    mine, other = (prepare(side.anatomy, batches, side.source) for side in (ours, theirs))
    same = Same(ours, theirs, mine, other)
    middle = (span[0] + span[1]) / 2
    depth, count = len(reference.blocks), ours.prompts
    rho, steps = np.zeros((count, depth)), _Steps(ours, batches, lent)
    hidden = [item.embedded for item in mine]
    walked = lent.walk((ours.tokens.ids, ours.lengths_apart), _walk_bytes(hidden, depth))
    for block in range(depth):
        swapped: list[Tensor] = []
        with reference.resident(block), candidate.resident(block):
            if block < len(walked):
                after = walked[block]
            else:
                after = [run_block(reference, block, hidden[i], item.calls[block]) for i, item in enumerate(mine)]
                walked.append(after)
            # Whether the configurations differ asks for all of it, when a streamed block is gone.
            same.look_at(block)
            if not same.block(block):
                swapped = [run_block(candidate, block, hidden[i], item.calls[block]) for i, item in enumerate(other)]
        if swapped:
            for index, out in enumerate(swapped):
                check_finite(_inside(out, batches[index]), block + 1, f"{theirs.source}, block swapped")
            outputs = _Outputs(hidden, after, swapped)
            rho[:, block] = _rho(outputs, batches, count)
            steps.swap(block, swapped)
        steps.add(block, hidden, after)
        hidden = after
        ours.reporter.step("swap", block + 1, depth, (span[0], middle))
    transport = steps.changes(depth)
    ours.reporter.step("swap", depth, depth, span)
    identical = np.array([same.block(block) for block in range(depth)])
    return SwapResult(rho, transport, np.array(chosen, dtype=np.int64), identical, same.places())


def _walk_bytes(embedded: list[Tensor], depth: int) -> int:
    """Of the residuals after every block; some keep them wider than the embedding, as float32."""
    return depth * sum(part.numel() * max(part.itemsize, 4) for part in embedded)


def _inside(hidden: Tensor, batch: Batch) -> Tensor:
    """The rows of real positions but the first, (n, d)."""
    return hidden[_mask(batch, hidden.device)]


def _mask(batch: Batch, device: torch.device) -> Tensor:
    where = torch.arange(batch.input_ids.shape[1], device=device)
    lengths = torch.from_numpy(batch.lengths).to(device)
    return (where[None, :] >= 1) & (where[None, :] < lengths[:, None])


def _rho(outputs: _Outputs, batches: list[Batch], count: int) -> Array:
    values = np.zeros(count)
    for before, ours, swapped, batch in zip(outputs.before, outputs.reference, outputs.candidate, batches, strict=True):
        moved = (swapped.double() - ours.double()).norm(dim=-1)
        update = (ours.double() - before.double()).norm(dim=-1)
        mask = _mask(batch, before.device)
        # A block whose own update is zero at a position has no scale there: 0/0 counts as no change.
        ratio = torch.where(moved > 0, moved / update.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
        means = torch.where(mask, ratio, 0.0).sum(1) / mask.sum(1)
        values[list(batch.members)] = means.cpu().numpy()
    return values


class _Steps:
    """Steps into the nodes of swapped blocks, all read in one pass through the reference's lens: its nodes once, which
    need not be read again for the next candidate, and what the swapped blocks gave. Holds (2 D + 1) x K residuals at
    most."""

    def __init__(self, reference: Session, batches: list[Batch], lent: Lent) -> None:
        self._reference = reference
        self._batches = batches
        self._lent = lent
        self._nodes: list[Tensor] = []
        self._swapped: dict[int, Tensor] = {}

    def add(self, block: int, before: list[Tensor], after: list[Tensor]) -> None:
        """Keep what is read of the reference around ``block`` (from 0), the next one."""
        if block == 0:
            self._nodes.append(self._read(before))
        self._nodes.append(self._read(after))

    def swap(self, block: int, swapped: list[Tensor]) -> None:
        """Keep what is read of the output of ``block``, swapped."""
        self._swapped[block] = self._read(swapped)

    def changes(self, depth: int) -> Array:
        """(Q, D) radians: the step with the block swapped minus the reference's own; 0 for blocks that were not
        swapped."""
        session, changes = self._reference, np.zeros((self._reference.prompts, depth))
        if not self._swapped:
            return changes
        nodes, swapped = torch.stack(self._nodes), torch.stack(list(self._swapped.values()))
        own = [(block, block + 1) for block in self._swapped]
        other = [(block, len(nodes) + place) for place, block in enumerate(self._swapped)]
        lens = read_lens(
            # Products of their own, as wide as those of a trace: the same whatever else is read.
            [(session.readout, nodes), (session.readout, swapped)],
            [*own, *other],
            check=session.reporter.check,
            kept=[self._lent.logits(session.readout, nodes), None],
        )
        lengths = prompt_means(lens.distance, session.gathered, "all")
        changes[:, list(self._swapped)] = lengths[:, len(own) :] - lengths[:, : len(own)]
        return changes

    def _read(self, parts: list[Tensor]) -> Tensor:
        return _gather(parts, self._batches, self._reference.gathered)


def _gather(parts: list[Tensor], batches: list[Batch], gathered: GatheredRows) -> Tensor:
    """(K, d) residuals at the gathered positions, in gathered order."""
    rows = torch.empty(len(gathered.prompt), parts[0].shape[-1], dtype=parts[0].dtype, device=parts[0].device)
    place = {member: (i, row) for i, batch in enumerate(batches) for row, member in enumerate(batch.members)}
    wanted: dict[int, tuple[list[int], list[int], list[int]]] = {}
    for k, (prompt, position) in enumerate(zip(gathered.prompt.tolist(), gathered.position.tolist(), strict=True)):
        batch, row = place[prompt]
        slots, from_row, from_position = wanted.setdefault(batch, ([], [], []))
        slots.append(k)
        from_row.append(row)
        from_position.append(position)
    for batch, (slots, from_row, from_position) in wanted.items():
        rows[slots] = parts[batch][from_row, from_position]
    return rows
