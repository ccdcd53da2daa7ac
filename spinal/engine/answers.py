"""Token ids for the read-outs of an account: prompts, prompts with both answers of a pair, prompts with refusals.

A prompt is cut from its front, an answer never: what does not fit whole is left out and counted.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from spinal.engine.read_outs import Ids, ReadOut, log_odds
from spinal.engine.session import Session
from spinal.engine.tokens import encode_prompts, lens_rows

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
LEAST_PROMPT = 2
"""Tokens of a prompt that stay in front of an answer: the first token of a text is never read."""


def divergence(session: Session) -> ReadOut:
    """KL from the reference at the lens positions of the last ``stitch_tokens`` of a prompt, mean over a prompt's."""
    asked = session.setup.asked
    chosen = session.tokens.sampled(asked.stitch_prompts)
    ids = tuple(session.tokens.ids[place][-asked.stitch_tokens :] for place in chosen)
    rows = lens_rows(ids, asked.lens_positions)
    sequence, position = rows.prompt[rows.in_all], rows.position[rows.in_all]
    counts = np.bincount(sequence, minlength=len(ids))
    return ReadOut(
        "kl",
        np.array(chosen, dtype=np.int64),
        ids,
        sequence,
        position,
        None,
        lambda values: _sums(values, sequence, len(ids)) / counts,
    )


def margin(session: Session) -> ReadOut | None:
    """log p(preferred answer) - log p(the other one), the end token of the session's tokenizer included; None where no
    prompt has both answers."""
    given = session.setup.prompts
    if not any(given.rejected):
        return None
    full = encode_prompts(session.loaded, given, session.setup.asked)
    pairs = {
        row: (given.continuations[place], given.rejected[place])
        for row, (place, _) in enumerate(full)
        if given.continuations[place] and given.rejected[place]
    }
    end, remarks = _end_token(session)
    answers = {row: [(*ids, *end) for ids in _encoded(session, pair)] for row, pair in pairs.items()}
    chosen, made, dropped = _joined(session, [ids for _, ids in full], answers)
    sequence, position, targets = _answer_rows(made)

    def fold(values: Array) -> Array:
        sums = _sums(values, sequence, len(made))
        return sums[..., 0::2] - sums[..., 1::2]

    ids = tuple(ids[:-1] for ids, _ in made)
    return ReadOut("margin", chosen, ids, sequence, position, targets, fold, dropped, remarks)


def refusal(session: Session) -> ReadOut | None:
    """Log-odds that the answer begins with one of the prompt's refusals; None where no prompt has any."""
    given = session.setup.prompts
    if not any(given.refusals):
        return None
    full = encode_prompts(session.loaded, given, session.setup.asked)
    openings = {
        row: prefix_free(_encoded(session, given.refusals[place]))
        for row, (place, _) in enumerate(full)
        if given.refusals[place]
    }
    openings = {row: found for row, found in openings.items() if found}
    chosen, made, dropped = _joined(session, [ids for _, ids in full], openings)
    sequence, position, targets = _answer_rows(made)
    owner = [at for at, row in enumerate(chosen.tolist()) for _ in openings[row]]

    def fold(values: Array) -> Array:
        each = _sums(values, sequence, len(made))
        total = np.full((*values.shape[:-1], len(chosen)), -np.inf)
        for at, prompt in enumerate(owner):
            total[..., prompt] = np.logaddexp(total[..., prompt], each[..., at])
        return log_odds(total)

    return ReadOut("refusal", chosen, tuple(ids[:-1] for ids, _ in made), sequence, position, targets, fold, dropped)


def prefix_free(openings: Iterable[Ids]) -> list[Ids]:
    """The openings without those that another one begins: what is left are events that exclude each other.

    Examples
    --------
    >>> prefix_free([(1, 2), (1, 2, 3), (4,), (1, 2), ()])
    [(1, 2), (4,)]
    """
    given = [ids for ids in dict.fromkeys(openings) if ids]
    return [ids for ids in given if not any(ids != other and ids[: len(other)] == other for other in given)]


def _encoded(session: Session, texts: Sequence[str | None]) -> list[Ids]:
    return [tuple(ids) for ids in session.loaded.tokenizer.encode([text or "" for text in texts], special=False)]


def _end_token(session: Session) -> tuple[Ids, tuple[str, ...]]:
    """The id that ends an answer, where the tokenizer has one that is read, else what is said of that."""
    end = session.loaded.tokenizer.end()
    if end is not None and end < session.readout.vocabulary:
        return (end,), ()
    why = "has no end token" if end is None else "has an end token that is not among the ids that are read"
    return (), (f"the margin leaves out the end of an answer: the tokenizer of {session.source} {why}",)


def _joined(
    session: Session, prompts: Sequence[Sequence[int]], answers: dict[int, list[Ids]]
) -> tuple[IntArray, list[tuple[Ids, int]], int]:
    """Prompts that are read, in ascending order, their ids with each answer and where that starts, and how many have
    answers and cannot be read: one is too long, empty, or holds an id that is not read."""
    asked = session.setup.asked
    limit = min(asked.pair_tokens, session.loaded.checkpoint.whole.max_positions or asked.pair_tokens)
    # The last token of an answer is asked for and never fed.
    room = {row: limit + 1 - max(len(ids) for ids in given) for row, given in answers.items()}
    fitting = [
        row
        for row, given in answers.items()
        if room[row] >= LEAST_PROMPT
        and all(ids and max(ids) < session.readout.vocabulary for ids in given)
    ]  # fmt: skip
    chosen = session.tokens.sampled(asked.stitch_prompts, fitting)
    made = []
    for row in chosen:
        head = tuple(prompts[row][-room[row] :])
        made += [((*head, *ids), len(head)) for ids in answers[row]]
    return np.array(chosen, dtype=np.int64), made, len(answers) - len(fitting)


def _answer_rows(made: Sequence[tuple[Ids, int]]) -> tuple[IntArray, IntArray, IntArray]:
    """Sequence, position and target of every token of the answers: a token is foretold at the one before it."""
    rows = [(at, place - 1, ids[place]) for at, (ids, start) in enumerate(made) for place in range(start, len(ids))]
    found = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return found[:, 0], found[:, 1], found[:, 2]


def _sums(values: Array, owner: IntArray, count: int) -> Array:
    """Sums of values (..., K) by owner, (..., count)."""
    found = np.zeros((*values.shape[:-1], count))
    np.add.at(found.T, owner, values.T)
    return found
