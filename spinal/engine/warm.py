"""What is kept of a reference between calls of one process: its logits, its walk, and gaps that are known already.

A comparison needs of the reference what the comparison before it needed: the logits of the nodes that were traced, the
residuals that block swap starts from, and the logits of those. The gap of a candidate is read with its trace, where the
same rows go through the same read-out. Every product has the shape that it has where nothing is kept, so that the
numbers are the same bits.

What is kept belongs to one reference, known by its weights digest, its reading, the profile, the prompts, the device
and the dtype; whoever asks holds the files and has read the digest from them. Logits are found by the residuals and the
read-out that they follow from, and by nothing else.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import cast

import torch

from spinal.checkpoints.held import Held
from spinal.checkpoints.pair import reading_of
from spinal.engine.session import Session
from spinal.engine.slices import slices
from spinal.engine.transport import KeptLogits, LensResult, Readout
from spinal.warm import Warm

Tensor = torch.Tensor
LOGIT_BYTES = 4
"""Of one logit, which is float32."""
GAPS = 1024
"""Gaps of candidates that are remembered, at most: each is a number for every node and row."""


def reference_key(session: Session, content: str) -> Hashable:
    """What a reference is known by: ``content`` is the digest of its weights."""
    setup = session.setup
    reading = reading_of(session.loaded.checkpoint).model_dump_json()
    return (content, reading, *_conditions(session), setup.batch_size)


def _conditions(session: Session) -> tuple[Hashable, ...]:
    setup = session.setup
    return (
        setup.asked.fingerprint,
        setup.prompts.digest,
        session.tokens.digest,
        session.readout.vocabulary,
        session.nodes,
        str(session.device),
        session.dtype,
        torch.get_num_threads(),
    )


def rows_digest(rows: Tensor) -> str:
    """sha256 over the values of residuals, their shape and dtype."""
    hasher = hashlib.sha256(repr((rows.dtype, tuple(rows.shape))).encode())
    for part in slices(rows.detach()):
        hasher.update(part.contiguous().cpu().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


@dataclass(frozen=True, eq=False)
class KeptLens:
    """Logits of residuals (S, K, d) of the reference under its read-out."""

    rows: Tensor
    logits: KeptLogits

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.logits.nbytes

    def is_of(self, rows: Tensor) -> bool:
        """Whether these are the logits of ``rows``, bit for bit."""
        return self.rows.dtype == rows.dtype and torch.equal(self.rows, rows)


@dataclass(frozen=True, eq=False)
class KeptWalk:
    """Residuals of every node on the prompts of block swap, a list by batch for each node."""

    batches: Hashable
    hidden: list[list[Tensor]]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for node in self.hidden for part in node)


@dataclass(eq=False)
class Reference:
    """All that is kept of one reference."""

    key: Hashable
    conditions: Hashable
    readout: str
    """Digest of its read-out."""
    compared: bool = False
    """Whether something was compared with it; one that was merely traced gives way to the next."""
    lenses: list[KeptLens] = field(default_factory=list)
    walk: KeptWalk | None = None
    gaps: dict[tuple[str, str], LensResult] = field(default_factory=dict)
    """Gap of a candidate by the digests of its read-out and of its rows."""
    traced: KeptLens | None = None
    """That of ``lenses`` which holds the nodes that were traced."""

    @property
    def nbytes(self) -> int:
        walk = 0 if self.walk is None else self.walk.nbytes
        gaps = sum(gap.nbytes for gap in self.gaps.values())
        return walk + gaps + sum(lens.nbytes for lens in self.lenses)


class Lent:
    """What a call of the engine may use and keep: taken from ``warm`` at its beginning, put back by :meth:`succeeded`.

    Everything is as if nothing were kept where ``warm`` keeps nothing, or once :meth:`give_up` was called.
    """

    def __init__(self, warm: Warm) -> None:
        self._warm = warm
        self._limit = warm.limit_bytes
        self._reference = cast(Reference | None, warm.take()) if self._limit > 0 else None

    @property
    def keeps(self) -> bool:
        """Whether anything may be kept."""
        return self._limit > 0

    def give_up(self) -> bool:
        """Free all that is kept, and keep nothing more in this call; returns whether that may have freed memory."""
        had = self.keeps
        self._limit, self._reference = 0, None
        return had

    def succeeded(self) -> None:
        """Leave what is kept to the next call."""
        if self._reference is not None:
            self._warm.put(self._reference)

    # a comparison

    def compare_with(self, session: Session, readout: str) -> None:
        """``session`` is the reference of this call, its files held, with a read-out of the digest ``readout``: what is
        kept of another one is dropped. Raises Cancelled."""
        held = session.loaded.checkpoint.held
        if not self.keeps or not isinstance(held, Held):
            return
        key = reference_key(session, held.digest(cancelled=session.reporter.cancelled))
        if not self._is(key, readout):
            self._reference = Reference(key, _conditions(session), readout)
        self._kept.compared = True

    def logits(self, readout: Readout, rows: Tensor, *, traced: bool = False) -> KeptLogits | None:
        """Where the logits of ``rows`` (S, K, d) of the reference under ``readout``, its own, are found or kept; None
        where they do not fit. ``traced``: whether they are those of the nodes that were traced."""
        reference = self._reference
        if reference is None:
            return None
        found = next((lens for lens in reference.lenses if lens.is_of(rows)), None)
        if found is None:
            states, count, _ = rows.shape
            found = KeptLens(rows.clone(), KeptLogits(LOGIT_BYTES * states * count * readout.vocabulary))
            if not self._fits(found.nbytes):
                return None
            reference.lenses.append(found)
        if traced and reference.traced is not found:
            reference.traced, reference.gaps = found, {}
        return found.logits

    def gap(self, readout: str, rows: Tensor) -> LensResult | None:
        """The gap to a candidate with these rows under a read-out of this digest, if it is known."""
        if self._reference is None or not self._reference.gaps:
            return None
        return self._reference.gaps.get((readout, rows_digest(rows)))

    def walk(self, batches: Hashable, nbytes: int) -> list[list[Tensor]]:
        """Residuals of the reference on ``batches``, a list by batch for each node, as far as they are known; what is
        added to the list is kept where ``nbytes`` for all of them fit."""
        reference = self._reference
        if reference is not None and (reference.walk is None or reference.walk.batches != batches):
            reference.walk = None
            if self._fits(nbytes):
                reference.walk = KeptWalk(batches, [])
        return [] if reference is None or reference.walk is None else reference.walk.hidden

    # a trace

    def trace_of(self, session: Session, content: str, readout: str) -> None:
        """``session`` is traced in this call, with weights and a read-out of these digests: it may turn out to be a
        reference, where none is kept that others were compared with or that these prompts could be."""
        if not self.keeps:
            return
        kept, conditions = self._reference, _conditions(session)
        if kept is None or not (kept.compared or kept.conditions == conditions):
            self._reference = Reference(reference_key(session, content), conditions, readout)

    def is_reference(self, session: Session, content: str) -> bool:
        """Whether what is kept is this very model's."""
        return self._reference is not None and self._reference.key == reference_key(session, content)

    def beside(self, session: Session) -> KeptLens | None:
        """The traced nodes of the reference, beside which the same nodes of another model can be read; None where there
        are none on the same prompts under the same conditions."""
        reference = self._reference
        if reference is None or reference.conditions != _conditions(session):
            return None
        traced = reference.traced
        return traced if traced is not None and traced.logits.complete else None

    def reads_as(self, readout: str) -> bool:
        """Whether the reference has a read-out of this digest."""
        return self._reference is not None and self._reference.readout == readout

    def remember_gap(self, readout: str, rows: Tensor, gap: LensResult) -> None:
        """``gap`` is what a comparison of the reference with a model of these rows reads."""
        reference = self._reference
        if reference is None or not self._fits(gap.nbytes):
            return
        if len(reference.gaps) == GAPS:
            del reference.gaps[next(iter(reference.gaps))]
        reference.gaps[readout, rows_digest(rows)] = gap

    @property
    def _kept(self) -> Reference:
        if self._reference is None:
            raise AssertionError("a call that keeps has a reference")
        return self._reference

    def _is(self, key: Hashable, readout: str) -> bool:
        kept = self._reference
        return kept is not None and (kept.key, kept.readout) == (key, readout)

    def _fits(self, nbytes: int) -> bool:
        taken = 0 if self._reference is None else self._reference.nbytes
        return taken + nbytes <= self._limit
