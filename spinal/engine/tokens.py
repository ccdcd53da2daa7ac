"""Token ids, fixed batches, and the positions that are read."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

from spinal.documents.canonical import digest_of
from spinal.engine.load import LoadedModel
from spinal.errors import ContextExceeded, PromptSetInvalid
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import PromptSet

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tokens:
    """Token ids per prompt, cut to the last ``max_tokens``."""

    ids: tuple[tuple[int, ...], ...]
    truncated: int
    """Prompts that were longer."""

    @cached_property
    def digest(self) -> str:
        """Identity of the ids, in order."""
        return digest_of([list(ids) for ids in self.ids])

    @property
    def total(self) -> int:
        """Tokens over all prompts."""
        return sum(len(ids) for ids in self.ids)


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded ids (B, T) of the prompts ``members``; a causal model needs no mask for right padding."""

    members: tuple[int, ...]
    lengths: IntArray
    input_ids: torch.Tensor


def tokenize(loaded: LoadedModel, prompts: PromptSet, profile: MeasurementProfile) -> Tokens:
    """Token ids of every prompt.

    Raises ContextExceeded when a prompt, after ``max_tokens``, is longer than the model's context, and
    PromptSetInvalid when a prompt leaves fewer than two tokens.
    """
    encoded = loaded.tokenizer(list(prompts.prompts), add_special_tokens=profile.add_special_tokens)["input_ids"]
    kept = tuple(tuple(ids[-profile.max_tokens :]) for ids in encoded)
    for number, ids in enumerate(kept, start=1):
        if len(ids) < 2:
            raise PromptSetInvalid(
                f"prompt {number} has {len(ids)} token(s); at least 2 are needed, the first is never read",
                hint="remove it, or write it out",
            )
    _check_context(loaded, kept)
    return Tokens(kept, sum(len(ids) > profile.max_tokens for ids in encoded))


def _check_context(loaded: LoadedModel, kept: tuple[tuple[int, ...], ...]) -> None:
    context = loaded.checkpoint.whole.max_positions
    longest = max(range(len(kept)), key=lambda i: len(kept[i]))
    if context is not None and len(kept[longest]) > context:
        raise ContextExceeded(
            f"prompt {longest + 1} has {len(kept[longest])} tokens, "
            f"the context of {loaded.checkpoint.source} is {context}",
            hint=f"set max_tokens to {context} or less",
        )


def make_batches(
    ids: tuple[tuple[int, ...], ...], size: int, device: torch.device, *, lengths_apart: bool = False
) -> list[Batch]:
    """Length-sorted batches (ties by order): the composition is a function of the ids and ``size`` alone. With
    ``lengths_apart`` all prompts of a batch have one length.

    Examples
    --------
    >>> first, second = make_batches(((5, 6, 7), (8, 9), (4, 3)), 2, torch.device("cpu"))
    >>> first.members, first.input_ids.tolist()
    ((1, 2), [[8, 9], [4, 3]])
    >>> second.members, second.lengths.tolist()
    ((0,), [3])
    """
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
    groups = [list(same) for _, same in groupby(order, key=lambda i: len(ids[i]))] if lengths_apart else [order]
    batches = []
    for members in (tuple(group[start : start + size]) for group in groups for start in range(0, len(group), size)):
        lengths = np.array([len(ids[i]) for i in members], dtype=np.int64)
        padded = torch.zeros(len(members), int(lengths.max()), dtype=torch.long)
        for row, i in enumerate(members):
            padded[row, : len(ids[i])] = torch.tensor(ids[i], dtype=torch.long)
        batches.append(Batch(members, lengths, padded.to(device)))
    return batches


@dataclass(frozen=True, eq=False)
class GatheredRows:
    """The K positions whose residuals are kept, ordered by prompt, then position. All arrays are (K,)."""

    prompt: IntArray
    position: IntArray
    """From 0; the first position of a prompt is never among them."""
    is_last: npt.NDArray[np.bool_]
    """Read at positions ``last``."""
    in_all: npt.NDArray[np.bool_]
    """Read at positions ``all``."""

    @property
    def prompts(self) -> int:
        """P: every prompt has at least its last position among the rows."""
        return int(self.prompt[-1]) + 1


def lens_rows(ids: tuple[tuple[int, ...], ...], lens_positions: int | str) -> GatheredRows:
    """Union of ``lens_positions`` evenly strided positions (``all``: of every one but the first; ``"full"`` takes each)
    and the last one (``last``).

    Examples
    --------
    >>> rows = lens_rows((tuple(range(9)), (1, 2)), 3)
    >>> rows.prompt.tolist(), rows.position.tolist()
    ([0, 0, 0, 1], [1, 4, 8, 1])
    >>> rows.is_last.tolist()
    [False, False, True, True]
    """
    prompt, position, last, strided = [], [], [], []
    for index, tokens in enumerate(ids):
        eligible = len(tokens) - 1
        count = eligible if lens_positions == "full" else min(int(lens_positions), eligible)
        # Evenly strided over 1..T-1, both ends included, in integers.
        chosen = {1 + (i * (eligible - 1)) // max(1, count - 1) for i in range(count)}
        for where in sorted(chosen | {eligible}):
            prompt.append(index)
            position.append(where)
            last.append(where == eligible)
            strided.append(where in chosen)
    return GatheredRows(np.array(prompt), np.array(position), np.array(last), np.array(strided))
