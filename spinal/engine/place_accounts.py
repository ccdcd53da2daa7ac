"""What carries the change: stitched models of a pair, read out place by place, as arrays.

``docs/method.md`` ("What carries the change"). All read-outs share one sweep over the blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from spinal.documents.evidence import AccountEvidence
from spinal.engine.answers import divergence, margin, refusal
from spinal.engine.hybrids import Hybrids, embedding_tensors, equal, fitting, readout_tensors, tensors_of
from spinal.engine.read_outs import ReadOut, read_rows
from spinal.engine.reporter import Reporter
from spinal.engine.same import identical_places
from spinal.engine.session import Session
from spinal.engine.stitch import Mixture, Plan, sweep
from spinal.engine.tokens import Batch
from spinal.engine.transport import Readout
from spinal.engine.walk import prepare

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def alike(ours: Session, theirs: Session) -> BoolArray:
    """(M,) places that are the same on both sides (:meth:`spinal.engine.same.Same.places`), told on the prompts of the
    account. Raises the errors of reading a block from disk."""
    batches = ours.narrowed(ours.tokens.sampled(ours.setup.asked.stitch_prompts)).batches()
    return identical_places(ours, theirs, *(prepare(side.anatomy, batches, side.source) for side in (ours, theirs)))


def _fits(ours: Session, theirs: Session) -> BoolArray:
    """(D + 2,) places whose tensors can stand in the other side's modules: told by names and shapes alone."""
    mine, other = ours.anatomy, theirs.anatomy
    blocks = [fitting(tensors_of(a), tensors_of(b)) for a, b in zip(mine.blocks, other.blocks, strict=True)]
    ahead = fitting(embedding_tensors(mine), embedding_tensors(other))
    return np.array([ahead, *blocks, fitting(readout_tensors(mine), readout_tensors(other))])


def _plan(ours: Session, theirs: Session, same: BoolArray) -> Plan:
    configuration = len(same) > len(ours.anatomy.blocks) + 2
    # Without a configuration to run under, every block runs in its own module.
    fits = _fits(ours, theirs) if configuration else np.ones_like(same)
    return Plan(same[: len(fits)], fits, configuration)


@dataclass(frozen=True, eq=False)
class Accounting:
    """How accounts of one pair are drawn up."""

    hybrids: Hybrids
    plan: Plan
    span: tuple[float, float]
    """The part of the whole that progress runs through."""

    @property
    def session(self) -> Session:
        """The reference, whose tokens are read."""
        return self.hybrids.reference

    @property
    def reporter(self) -> Reporter:
        return self.session.reporter


def account_of_pair(
    ours: Session, theirs: Session, same: BoolArray, span: tuple[float, float]
) -> tuple[AccountEvidence, ...]:
    """Accounts of what the prompts allow: of ``kl`` always, of ``margin`` and ``refusal`` where there are answers.
    ``ours`` is the reference; ``same`` (M,) are the places that are the same on both sides, the configuration the last
    of them where it differs. Where a stitched model overflows, its values are NaN.

    Raises ArchitectureUnsupported, Cancelled, and the errors of reading a block from disk.
    """
    if not ours.setup.asked.stitch_prompts:
        return ()
    plan = _plan(ours, theirs, same)
    made = Accounting(Hybrids(ours, theirs, crossed=plan.configuration), plan, span)
    read = [divergence(ours), margin(ours), refusal(ours)]
    return _drawn_up(made, [each for each in read if each is not None])


def account_of_noise(ours: Session, perturbed: Session, span: tuple[float, float]) -> AccountEvidence:
    """Account of ``kl`` for the reference with its tensors moved at random: under the reference's configuration,
    whichever the model that holds them came with. Raises what :func:`account_of_pair` raises."""
    mine, other, shared = ours.anatomy, perturbed.anatomy, ours.readout.vocabulary
    blocks = [equal(tensors_of(a), tensors_of(b), shared) for a, b in zip(mine.blocks, other.blocks, strict=True)]
    ahead = equal(embedding_tensors(mine), embedding_tensors(other), shared)
    same = np.array([ahead, *blocks, equal(readout_tensors(mine), readout_tensors(other), shared)])
    plan = Plan(same, np.ones_like(same), configuration=False)
    made = Accounting(Hybrids(ours, perturbed, crossed=True), plan, span)
    return _drawn_up(made, [divergence(ours)])[0]


def _drawn_up(made: Accounting, read: Sequence[ReadOut]) -> tuple[AccountEvidence, ...]:
    """One account for each read-out, from one sweep."""
    batches = [made.session.batches(each.ids) if each.ids else [] for each in read]
    owner = {id(batch): at for at, group in enumerate(batches) for batch in group}
    values = [dict.fromkeys(made.plan.mixtures, np.full(0, np.nan)) for _ in read]
    for each, kept in zip(read, values, strict=True):
        kept.update({mixture: np.empty(len(each.sequence)) for mixture in made.plan.mixtures})

    def finish(batch: Batch, states: dict[Mixture, Tensor]) -> None:
        at = owner[id(batch)]
        rows, found = _read_batch(made, read[at], batch, states)
        for mixture, line in zip(made.plan.mixtures, found, strict=True):
            values[at][mixture][rows] = line

    def progress(done: int, total: int) -> None:
        made.reporter.step("accounts", done, total, made.span)

    sweeps = sweep(made.hybrids, made.plan, [batch for group in batches for batch in group], finish, progress)
    said = (
        f"the residuals of all prompts did not fit into memory at once: every block was read {sweeps} times",
    ) if sweeps > 1 else ()  # fmt: skip
    return tuple(_evidence(made.plan, each, kept, said) for each, kept in zip(read, values, strict=True))


def _read_batch(
    made: Accounting, read: ReadOut, batch: Batch, states: dict[Mixture, Tensor]
) -> tuple[npt.NDArray[np.int64], Array]:
    """Which of the read-out's rows lie in this batch (k,), and their values under every mixture (mixtures, k)."""
    row_of = {member: row for row, member in enumerate(batch.members)}
    rows = np.flatnonzero(np.isin(read.sequence, batch.members))
    lines = torch.tensor([row_of[member] for member in read.sequence[rows].tolist()], dtype=torch.long)
    positions = torch.from_numpy(read.position[rows])
    groups: list[tuple[Readout, Tensor]] = []
    order: list[Mixture] = []
    for ending in dict.fromkeys((mixture[0], mixture[-1]) for mixture in made.plan.mixtures):
        members = [mixture for mixture in made.plan.mixtures if (mixture[0], mixture[-1]) == ending]
        # Answers of a batch under all mixtures are too much for some accelerators: they stay where states wait.
        gathered = torch.stack([states[mixture[:-1]][lines, positions] for mixture in members])
        groups.append((made.hybrids.readout(*ending), gathered))
        order += members
    targets = None if read.targets is None else torch.from_numpy(read.targets[rows]).to(made.session.device)
    found = read_rows(groups, targets, made.reporter.check)
    return rows, found[[order.index(mixture) for mixture in made.plan.mixtures]]


def _evidence(plan: Plan, read: ReadOut, values: dict[Mixture, Array], said: tuple[str, ...]) -> AccountEvidence:
    with np.errstate(invalid="ignore"):  # a stitched model that overflows is told by what it gives
        folded = {mixture: read.fold(rows) for mixture, rows in values.items()}
    last = (False,) if plan.configuration else ()
    merged = [name for name, fits in zip(plan.places, plan.fits, strict=False) if not fits]
    unlike = (
        f"what the configuration carries holds {', '.join(merged)} too: tensors of one side do not fit the "
        "configuration of the other",
    ) if merged else ()  # fmt: skip
    return AccountEvidence(
        read.name,
        plan.places,
        read.prompts,
        np.stack([folded[mixture] for mixture in plan.forward], axis=-1),
        np.stack([folded[mixture] for mixture in plan.backward], axis=-1),
        np.array([*plan.identical, *last]),
        read.dropped,
        (*read.remarks, *unlike, *said),
    )
