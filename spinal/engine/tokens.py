"""Token ids, fixed batches, and the positions that are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.documents.canonical import digest_of
from spinal.engine.load import LoadedModel
from spinal.engine.tokenizer import Tokenizer, auto_remark, load_tokenizer
from spinal.errors import ContextExceeded, PromptSetInvalid, TokenizerInvalid, TokenizerMismatch
from spinal.profile import MeasurementProfile
from spinal.prompts.sets import Prompt, PromptSet

IntArray = npt.NDArray[np.int64]


Ids = tuple[int, ...]
AGREE = (
    "compare checkpoints whose tokenizers agree on these prompts, or, on the command line, name one for both: "
    "--tokenizer DIR"
)


@dataclass(frozen=True)
class Tokens:
    """Token ids per prompt, cut to the last ``max_tokens``. Prompts of fewer than two tokens are left out."""

    ids: tuple[Ids, ...]
    truncated: int
    """Prompts that were longer."""
    continuations: Mapping[int, tuple[Ids, int]] = field(default_factory=dict)
    """By place in ``ids``: ids of a prompt with its own continuation, and where that starts."""
    remarks: tuple[str, ...] = ()
    """What a reader of the measurement should know about its tokens."""

    @cached_property
    def digest(self) -> str:
        """Identity of the ids, in order."""
        return digest_of([list(ids) for ids in self.ids])

    @property
    def continuation_digest(self) -> str | None:
        """Identity of the ids of prompts with their own continuations; None where none has one."""
        joined = [[index, list(ids), start] for index, (ids, start) in sorted(self.continuations.items())]
        return digest_of(joined) if joined else None

    @property
    def highest(self) -> int:
        """The largest id that is fed to the model."""
        return max(max(ids) for ids in (*self.ids, *(ids for ids, _ in self.continuations.values())))

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
    """Token ids of every prompt, and of the first ``continuation_prompts`` with their continuations.

    Raises ContextExceeded when a prompt, after ``max_tokens``, is longer than the model's context, PromptSetInvalid
    when no prompt leaves two tokens or a chat has no template, and TokenizerInvalid when a token has no embedding.
    """
    tokenizer = loaded.tokenizer
    rendered = [_rendered(tokenizer, prompt, number) for number, prompt in enumerate(prompts.prompts, start=1)]
    encoded, differing = _encode(tokenizer, rendered, special=profile.add_special_tokens)
    read = [_read_of(prompt, profile) for prompt in encoded]
    kept = [place for place, ids in enumerate(read) if ids]
    if not kept:
        raise PromptSetInvalid(
            f"prompt 1 has {len(encoded[0])} token(s), and no prompt has 2; the first is never read",
            hint="write the prompts out",
        )
    ids = tuple(read[place] for place in kept)
    _check_context(loaded, ids, kept)
    _check_rows(loaded, [encoded[place] for place in kept], kept)
    said = [*tokenizer.remarks, *_about(tokenizer, prompts, encoded, kept)]
    if differing:
        said.append(auto_remark(tokenizer, differing, len(encoded)))
    return Tokens(
        ids,
        sum(len(encoded[place]) > profile.max_tokens for place in kept),
        _continuations(loaded, prompts, profile, encoded, kept),
        tuple(said),
    )


def encode_prompts(loaded: LoadedModel, prompts: PromptSet, profile: MeasurementProfile) -> list[tuple[int, list[int]]]:
    """Place in the set and all ids, ahead of any cut, of every prompt that :func:`tokenize` keeps, in its order."""
    rendered = [_rendered(loaded.tokenizer, prompt, number) for number, prompt in enumerate(prompts.prompts, start=1)]
    encoded = _ids_of(loaded.tokenizer, rendered, special=profile.add_special_tokens)
    return [(place, ids) for place, ids in enumerate(encoded) if _read_of(ids, profile)]


def check_same_ids(sides: Sequence[Checkpoint], prompts: PromptSet, profile: MeasurementProfile) -> None:
    """Raise TokenizerMismatch unless all ``sides`` turn the prompts into the ids of the first: told from tokenizers,
    ahead of any weight. Raises TokenizerInvalid and PromptSetInvalid, too."""
    first: list[Ids] | None = None
    for side in sides:
        tokenizer = load_tokenizer(side.tokenizing)
        rendered = [_rendered(tokenizer, prompt, number) for number, prompt in enumerate(prompts.prompts, start=1)]
        encoded = _ids_of(tokenizer, rendered, special=profile.add_special_tokens)
        ids = [_read_of(prompt, profile) for prompt in encoded]
        first = ids if first is None else first
        different = next((n for n, (a, b) in enumerate(zip(first, ids, strict=True), start=1) if a != b), None)
        if different is not None:
            raise TokenizerMismatch(
                f"{sides[0].source} and {side.source} turn prompt {different} into different token ids", hint=AGREE
            )


def _read_of(ids: list[int], profile: MeasurementProfile) -> Ids:
    """What is read of a prompt: its last ``max_tokens``, or nothing where those are not two."""
    found = tuple(ids[-profile.max_tokens :])
    return found if len(found) > 1 else ()


def _rendered(tokenizer: Tokenizer, prompt: Prompt, number: int) -> tuple[str, bool]:
    """Text of a prompt, and whether a template wrote it, special tokens included."""
    if isinstance(prompt, str):
        return prompt, False
    return tokenizer.render(prompt, f"prompt {number}"), True


def _encode(tokenizer: Tokenizer, rendered: list[tuple[str, bool]], *, special: bool) -> tuple[list[list[int]], int]:
    """Ids of every text, and how many texts AutoTokenizer turns into others."""
    differing = 0
    for templated in (False, True):
        texts = [text for text, mine in rendered if mine == templated]
        if texts:
            differing += tokenizer.differs_from_auto(texts, special=special and not templated)
    return _ids_of(tokenizer, rendered, special=special), differing


def _ids_of(tokenizer: Tokenizer, rendered: list[tuple[str, bool]], *, special: bool) -> list[list[int]]:
    encoded: list[list[int]] = [[] for _ in rendered]
    for templated in (False, True):
        places = [place for place, (_, mine) in enumerate(rendered) if mine == templated]
        if not places:
            continue
        # A template writes the BOS itself: a second one is no text that the model has seen.
        texts, added = [rendered[place][0] for place in places], special and not templated
        for place, ids in zip(places, tokenizer.encode(texts, special=added), strict=True):
            encoded[place] = ids
    return encoded


def _about(tokenizer: Tokenizer, prompts: PromptSet, encoded: list[list[int]], kept: list[int]) -> list[str]:
    found = []
    if len(kept) < len(encoded):
        first = min(set(range(len(encoded))) - set(kept))
        found.append(
            f"{len(encoded) - len(kept)} of {len(encoded)} prompts were dropped, first prompt {first + 1}: they have "
            "fewer than 2 tokens, and the first token is never read"
        )
    openings = tokenizer.openings()
    doubled = [ids for ids in encoded if len(ids) > 1 and ids[0] == ids[1] and ids[0] in openings]
    if doubled:
        found.append(
            f"{len(doubled)} of {len(encoded)} prompts begin with two {tokenizer.token(doubled[0][0])}: the text holds "
            "it, and the tokenizer adds it (add_special_tokens=false leaves one)"
        )
    same = len(kept) - len({tuple(encoded[place]) for place in kept})
    if same:
        found.append(
            f"{same} of {len(encoded)} prompts have the very token ids of another one: where that is not what they "
            "say, the chat template or the tokenizer leaves out what tells them apart"
        )
    chats = not all(isinstance(prompt, str) for prompt in prompts.prompts)
    if chats and tokenizer.draws():
        found.append("the chat template draws at random; the draws are fixed, so that ids never change")
    if chats and tokenizer.reads_the_clock():
        found.append("the chat template asks for today's date; 26 July 2024 is given, so that ids never change")
    return found


def _continuations(
    loaded: LoadedModel, prompts: PromptSet, profile: MeasurementProfile, encoded: list[list[int]], kept: list[int]
) -> dict[int, tuple[Ids, int]]:
    """Ids of prompt + continuation and where the continuation starts, cut from the front to what is read: at least
    half of it stays with the prompt."""
    chosen = [row for row, place in enumerate(kept) if prompts.continuations[place]][: profile.continuation_prompts]
    if not chosen:
        return {}
    tails = loaded.tokenizer.encode([prompts.continuations[kept[row]] or "" for row in chosen], special=False)
    _check_rows(loaded, tails, [kept[row] for row in chosen])
    limit = min(profile.max_tokens, loaded.checkpoint.whole.max_positions or profile.max_tokens)
    joined = {}
    for row, tail in zip(chosen, tails, strict=True):
        if tail:
            tail = tail[: max(1, limit // 2)]
            head = encoded[kept[row]][-(limit - len(tail)) :]
            joined[row] = ((*head, *tail), len(head))
    return joined


def _check_context(loaded: LoadedModel, ids: tuple[Ids, ...], kept: list[int]) -> None:
    context = loaded.checkpoint.whole.max_positions
    longest = max(range(len(ids)), key=lambda i: len(ids[i]))
    if context is not None and len(ids[longest]) > context:
        raise ContextExceeded(
            f"prompt {kept[longest] + 1} has {len(ids[longest])} tokens, "
            f"the context of {loaded.checkpoint.source} is {context}",
            hint=f"set max_tokens to {context} or less",
        )


def _check_rows(loaded: LoadedModel, encoded: list[list[int]], places: list[int]) -> None:
    """Every id has a row in the embedding table: looking up another ends the process on some devices."""
    embedding: torch.Tensor = loaded.model.get_input_embeddings().weight  # type: ignore[assignment]  # an nn.Embedding
    rows = embedding.shape[0]
    for place, ids in zip(places, encoded, strict=True):
        beyond = next((index for index in ids if index >= rows), None)
        if beyond is not None:
            raise TokenizerInvalid(
                f"prompt {place + 1} holds the token {loaded.tokenizer.token(beyond)!r} (id {beyond}), and the "
                f"embedding table of {loaded.checkpoint.source} has {rows} rows",
                hint="leave that token out of the prompts, or resize the model's embeddings to its tokenizer",
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
