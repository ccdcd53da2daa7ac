"""How a model goes on: the continuations that are given, scored, and those that it writes by itself, greedily.

A continuation is greedy where every token is the most likely one, among the ids that are read, after all before it
(the lowest id among equals). That is a property of a plain forward pass over prompt and continuation, and it is settled
with one: the pass that measures everything else. The model's own forward with its cache only proposes, quickly; what it
proposes is read once more, every token that is not the most likely one is replaced, and so on until nothing changes.
Each pass settles at least one more token, so a proposal that is wrong (a cache that is not, positions that padding
moved) costs time and never an answer.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spinal.engine.anatomy import residual_of
from spinal.engine.ending import end_ids
from spinal.engine.nll import final_residuals, score_continuations, score_prompts
from spinal.engine.session import Session
from spinal.engine.tokens import Ids
from spinal.engine.transport import TOKEN_BLOCK, VOCABULARY_BLOCK, Readout
from spinal.errors import SpinalError

Tensor = torch.Tensor
Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
GRAM = 3
PROPOSALS = 4
"""Times that the cache is asked: what is still open differs by more than rounding, and single passes settle it."""
FAILS = (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError)
"""What a model's own code raises where it cannot go on from a cache."""


def read_behaviour(
    session: Session, rows: Tensor, continued: Mapping[int, Tensor]
) -> tuple[dict[int, float] | None, dict[str, Any]]:
    """NLL (nats per token) of continuations by prompt, None where the set has none, and the members of the capture that
    tell how the model goes on. ``rows`` (K, d) are the gathered residuals of the last node, ``continued`` those of
    continuations that were read with their prompt.

    Raises ArchitectureUnsupported, Cancelled, and the errors of reading a block from disk.
    """
    ends, tokens = end_ids(session), session.tokens
    scored = score_continuations(session, continued, ends)
    nll = None if scored is None else dict(zip(scored.prompts.tolist(), scored.nll.tolist(), strict=True))
    scored = score_prompts(session, rows) if scored is None else scored
    beside: dict[str, Any] = {
        "scored_entropy": scored.entropy,
        "nll_tempered": scored.tempered,
        "end_log_p": scored.end_log_p,
        "end_ids": np.array(ends, dtype=np.int64),
        "categories": tokens.categories,
        "sample": np.array(tokens.order, dtype=np.int64),
    }
    session.reporter.step("greedy", 0, 1, (0.94, 0.94))
    if session.profile.greedy_prompts:
        greedy = continue_greedily(session, ends)
        beside |= {
            "greedy_prompts": greedy.prompts,
            "greedy_length": greedy.length,
            "greedy_ended": greedy.ended,
            "greedy_repetition": greedy.repetition,
        }
    return nll, beside


@dataclass(frozen=True, eq=False)
class Greedy:
    """G prompts that were continued."""

    prompts: IntArray
    """(G,) places of the prompts, ascending."""
    tokens: tuple[Ids, ...]
    """What each went on with, the end token left out."""
    ended: npt.NDArray[np.bool_]
    """(G,) whether an end token came."""

    @property
    def length(self) -> IntArray:
        """(G,) tokens before the end, or all."""
        return np.array([len(ids) for ids in self.tokens], dtype=np.int64)

    @property
    def repetition(self) -> Array:
        """(G,) share of 3-grams that came before; NaN below 4 tokens."""
        return np.array([repeated_share(ids) for ids in self.tokens], dtype=np.float64)


def repeated_share(ids: Sequence[int]) -> float:
    """Share of the 3-grams of ``ids`` that came before in it; NaN below 4 tokens, which hold no two.

    Examples
    --------
    >>> repeated_share([1, 2, 3, 1, 2, 3])
    0.25
    """
    grams = [tuple(ids[at : at + GRAM]) for at in range(len(ids) - GRAM + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > 1 else float("nan")


def continue_greedily(session: Session, ends: Sequence[int]) -> Greedy:
    """Continue a sample of ``greedy_prompts`` by at most ``greedy_tokens`` tokens; ``ends`` are the ids after which
    text ends. Where the model's context does not hold both, prompts are cut from the front, to half of it at most.

    Raises ArchitectureUnsupported, Cancelled, and the errors of reading a block from disk.
    """
    chosen = session.tokens.sampled(session.profile.greedy_prompts)
    context, steps = session.loaded.checkpoint.whole.max_positions, session.profile.greedy_tokens
    if context is not None:
        steps = max(1, min(steps, context // 2))
    keep = None if context is None else max(1, context - steps)
    prompts = [ids if keep is None else ids[-keep:] for ids in (session.tokens.ids[place] for place in chosen)]
    settled = _settled(session, prompts, steps, frozenset(ends))
    lengths = [_before_end(ids, frozenset(ends)) for ids in settled]
    return Greedy(
        np.array(chosen, dtype=np.int64),
        tuple(ids[:length] for ids, length in zip(settled, lengths, strict=True)),
        np.array([length < len(ids) for ids, length in zip(settled, lengths, strict=True)], dtype=np.bool_),
    )


def _before_end(ids: Sequence[int], ends: frozenset[int]) -> int:
    return next((place for place, index in enumerate(ids) if index in ends), len(ids))


def _settled(session: Session, prompts: list[Ids], steps: int, ends: frozenset[int]) -> list[Ids]:
    """``steps`` tokens after each prompt, of which every one up to the first end is the most likely after those before
    it.

    The first pass reads proposals to their ends only. All later ones are of one shape, so that rounding, too, depends
    on what came before alone, and none undoes what another settled.
    """
    # From a stream the cache would read the whole model once for every token, and so does a pass over all prompts.
    proposals = PROPOSALS if session.anatomy.store is None else 0
    found: list[Ids] = [(0,) * steps] * len(prompts)
    if proposals:
        found = _proposed(session, prompts, [()] * len(prompts), steps, ends)
    # After the last proposal every pass settles a token; accelerators that add up in any order may undo one.
    for turn in range(1, PROPOSALS + steps + 1):
        counting = [ids[: _before_end(ids, ends) + 1] for ids in found]
        read = _most_likely(session, prompts, counting if turn == 1 and proposals else found)
        known: dict[int, Ids] = {}
        for row, (mine, best) in enumerate(zip(counting, read, strict=True)):
            wrong = next((place for place, (a, b) in enumerate(zip(mine, best, strict=False)) if a != b), None)
            if wrong is not None:
                known[row] = best[: wrong + 1]
                found[row] = (*best, *found[row][len(best) :])
        if not known:
            break
        if turn < proposals:
            again = _proposed(session, [prompts[row] for row in known], list(known.values()), steps, ends)
            for row, proposed in zip(known, again, strict=True):
                found[row] = proposed
    return found


def _most_likely(session: Session, prompts: list[Ids], continuations: list[Ids]) -> list[Ids]:
    """The most likely token in the place of each of ``continuations``, after the prompt and those before it."""
    batches = session.batches(
        tuple((*prompt, *after[:-1]) for prompt, after in zip(prompts, continuations, strict=True))
    )
    found: dict[int, Ids] = {}
    for batch, final in zip(batches, final_residuals(session, batches), strict=True):
        for row, member in enumerate(batch.members):
            start, steps = len(prompts[member]) - 1, len(continuations[member])
            rows = final[row, start : start + steps]
            found[member] = tuple(_argmax(session.readout, rows))
    return [found[member] for member in range(len(prompts))]


def _argmax(readout: Readout, rows: Tensor) -> list[int]:
    """The most likely id of each row (n, d): the lowest among equals, and 0 where nothing is a number."""
    found = []
    for start in range(0, len(rows), TOKEN_BLOCK):
        normed = readout.normed(rows[start : start + TOKEN_BLOCK])
        best = torch.full((len(normed),), -torch.inf, device=normed.device)
        place = torch.zeros(len(normed), dtype=torch.long, device=normed.device)
        for first in range(0, readout.vocabulary, VOCABULARY_BLOCK):
            stop = min(first + VOCABULARY_BLOCK, readout.vocabulary)
            value, index = readout.logits(normed, first, stop).nan_to_num(nan=-torch.inf).max(-1)
            higher = value > best
            place = torch.where(higher, index + first, place)
            best = torch.where(higher, value, best)
        found.append(place)
    return torch.cat(found).tolist()


def _proposed(session: Session, prompts: list[Ids], known: list[Ids], steps: int, ends: frozenset[int]) -> list[Ids]:
    """``steps`` tokens after each prompt, beginning with those ``known``, as the model's own cache has them: good
    guesses, or none (id 0)."""
    heads = tuple((*prompt, *mine) for prompt, mine in zip(prompts, known, strict=True))
    rest = [steps - len(mine) for mine in known]
    guesses: dict[int, Ids] = {}
    for batch in session.batches(heads):
        most = max(rest[member] for member in batch.members)
        try:
            made = _decoded(session, [heads[member] for member in batch.members], most, ends)
        except (SpinalError, torch.OutOfMemoryError):
            raise
        except FAILS:
            # Without a guess, the passes that settle find every token.
            made = []
        for row, member in enumerate(batch.members):
            guess = made[row][: rest[member]] if made else ()
            guesses[member] = (*known[member], *guess, *[0] * (rest[member] - len(guess)))
    return [guesses[member] for member in range(len(heads))]


def _decoded(session: Session, heads: list[Ids], steps: int, ends: frozenset[int]) -> list[Ids]:
    """At most ``steps`` greedy tokens with the model's cache. Texts are padded on the left, where relative positions
    stay as they are; absolute ones are named."""
    model, device = session.loaded.model, session.device
    takes = inspect.signature(model.forward).parameters
    width = max(map(len, heads))
    ids = torch.zeros(len(heads), width, dtype=torch.long, device=device)
    mask = torch.ones(len(heads), width + steps, dtype=torch.long, device=device)
    for row, head in enumerate(heads):
        ids[row, width - len(head) :] = torch.tensor(head, dtype=torch.long)
        mask[row, : width - len(head)] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    made: list[list[int]] = [[] for _ in heads]
    cache = None
    with session.anatomy.callable(), _last_residual(session) as last:
        for step in range(steps):
            session.reporter.check()
            seen = width + step
            given = {"attention_mask": mask[:, :seen], "position_ids": positions[:, seen - ids.shape[1] : seen]}
            output = model(
                input_ids=ids,
                past_key_values=cache,
                use_cache=True,
                **{name: value for name, value in given.items() if name in takes},
            )
            cache = output.past_key_values
            if cache is None:
                raise TypeError("the model keeps no cache of this kind")
            chosen = _argmax(session.readout, last.pop())
            for mine, index in zip(made, chosen, strict=True):
                mine.append(index)
            if all(ends.intersection(mine) for mine in made):
                break
            ids = torch.tensor(chosen, dtype=torch.long, device=device)[:, None]
    return [tuple(row) for row in made]


@contextlib.contextmanager
def _last_residual(session: Session) -> Iterator[list[Tensor]]:
    """What a forward pass leaves behind the last block at the last position (B, d), which alone reaches the head: no
    tokens-by-vocabulary matrix is made, and tokens are read as they are everywhere else."""
    kept: list[Tensor] = []
    anatomy = session.anatomy
    handles = [
        anatomy.blocks[-1].register_forward_hook(
            lambda _module, _args, output: kept.append(residual_of(output)[:, -1])
        ),
        anatomy.head.register_forward_pre_hook(lambda _module, args: (args[0][:, -1:], *args[1:])),
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()
