"""Held-out NLL: of the prompts' own continuations where the set has them, else of the prompts at lens positions; under
profiles after ``spinal/1`` with what else the damage panel asks of the same tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.scored import ScoredRows, read_scored
from spinal.engine.session import Session
from spinal.engine.tokens import Batch, Joined
from spinal.engine.transport import read_lens
from spinal.engine.walk import node_residuals, prepare
from spinal.errors import Cancelled

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scored:
    """C prompts whose tokens were scored, T temperatures. Means over the scored tokens of each."""

    prompts: npt.NDArray[np.int64]
    """(C,) places of the prompts."""
    nll: Array
    """(C,) nats per token; infinite where the model's numbers are not finite."""
    entropy: Array
    """(C,) nats."""
    tempered: Array
    """(C, T) nats per token at each of ``TEMPERATURES``."""
    end_log_p: Array
    """(C,) log probability of an end token after the whole continuation; NaN where there is none to look for, or the
    continuation was cut."""


def row_targets(session: Session) -> Tensor:
    """(K,) id of the token that follows each gathered row inside its prompt, -1 after the last."""
    ids, gathered = session.tokens.ids, session.gathered
    targets = [
        ids[p][t + 1] if t + 1 < len(ids[p]) else -1
        for p, t in zip(gathered.prompt.tolist(), gathered.position.tolist(), strict=True)
    ]
    return torch.tensor(targets, dtype=torch.long, device=session.device)


def continuation_nll(session: Session) -> dict[int, float] | None:
    """Nats per token of the continuation of the sampled prompts that have one, by prompt; None when the set has none.
    At least half of what is read stays with the prompt.

    Raises ArchitectureUnsupported, Cancelled.
    """
    pairs = session.tokens.continuations
    if not pairs:
        return None
    values: dict[int, float] = {}
    for index, rows in _continued(session, pairs).items():
        ids, start = pairs[index]
        targets = torch.tensor(ids[start:], dtype=torch.long, device=session.device)
        lens = read_lens([(session.readout, rows[None, :-1])], [], targets=targets)
        if lens.target_nll is None:
            raise AssertionError("targets were given")
        values[index] = float(lens.target_nll.mean())
    return values


def score_continuations(session: Session, continued: Mapping[int, Tensor], ends: Sequence[int]) -> Scored | None:
    """The continuations of the sampled prompts; None when the set has none. ``continued`` holds the residuals of those
    that were read with their prompt already (``RowGatherer.continued``); ``ends`` are the ids after which text ends.

    Raises ArchitectureUnsupported, Cancelled.
    """
    pairs = session.tokens.continuations
    if not pairs:
        return None
    rest = {index: pair for index, pair in pairs.items() if index not in continued}
    residuals = {**continued, **_continued(session, rest)}
    prompts = sorted(pairs)
    following = [[*pairs[index][0][pairs[index][1] :], -1] for index in prompts]
    targets = torch.tensor([target for tail in following for target in tail], dtype=torch.long, device=session.device)
    rows = torch.cat([residuals[index] for index in prompts])
    found = read_scored(session.readout, rows, targets, ends, session.reporter.check)
    lasts = np.cumsum([len(tail) for tail in following]) - 1
    after = found.end_log_p[lasts]
    after[[index in session.tokens.cut for index in prompts]] = np.nan
    owner = np.repeat(np.arange(len(prompts)), [len(tail) for tail in following])
    scored = _means(found, owner, np.array(prompts, dtype=np.int64), _has(targets), after)
    # A continuation on which the model overflows was looked at: it has no probability, and is not left out.
    return replace(scored, nll=np.where(np.isnan(scored.nll), np.inf, scored.nll))


def score_prompts(session: Session, rows: Tensor) -> Scored:
    """The prompts' own tokens that follow gathered positions, of whose residuals at the last node are ``rows`` (K, d);
    where a set has no continuations. Raises Cancelled."""
    targets = row_targets(session)
    found = read_scored(session.readout, rows, targets, (), session.reporter.check)
    known = np.isfinite(found.nll)
    having, place = np.unique(session.gathered.prompt[known], return_inverse=True)
    owner = np.zeros(len(known), dtype=np.int64)
    owner[known] = place
    return _means(found, owner, having.astype(np.int64), known, np.full(len(having), np.nan))


def _has(targets: Tensor) -> npt.NDArray[np.bool_]:
    return (targets >= 0).cpu().numpy()


def _means(
    found: ScoredRows,
    owner: npt.NDArray[np.int64],
    prompts: npt.NDArray[np.int64],
    scored: npt.NDArray[np.bool_],
    end_log_p: Array,
) -> Scored:
    """Means over the rows that are ``scored`` of each owner 0..C-1."""
    mine = owner[scored]
    counts = np.bincount(mine, minlength=len(prompts))

    def mean(values: Array) -> Array:
        return np.asarray(np.bincount(mine, weights=values[scored], minlength=len(prompts)) / counts)

    tempered = np.stack([mean(column) for column in found.tempered.T], axis=1)
    return Scored(prompts, mean(found.nll), mean(found.entropy), tempered, end_log_p)


def _continued(session: Session, pairs: Mapping[int, Joined]) -> dict[int, Tensor]:
    """Residuals (t + 1, d) of the last node from the last token of each prompt to the last of the t of its
    continuation, in the order in which they are read."""
    if not pairs:
        return {}
    members = list(pairs)
    batches = session.batches(tuple(pairs[i][0] for i in members))
    return {
        members[member]: final[row, pairs[members[member]][1] - 1 : len(pairs[members[member]][0])]
        for batch, final in zip(batches, final_residuals(session, batches), strict=True)
        for row, member in enumerate(batch.members)
    }


def final_residuals(session: Session, batches: list[Batch]) -> list[Tensor]:
    """r_D (B, T, d) of every batch, all of them through one block at a time."""
    prepared = prepare(session.anatomy, batches, session.source)
    residuals: list[Tensor] = []
    for hidden in node_residuals(session.anatomy, prepared):
        if session.reporter.cancelled():
            raise Cancelled("cancelled in phase nll")
        residuals = hidden
    return residuals
