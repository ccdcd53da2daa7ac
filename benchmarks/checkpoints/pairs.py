"""Preference pairs as token ids: which text they come from, and how "the shorter answer" is made of them."""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.records import split_pair

HELD_OUT = 512
"""Pairs of hh-rlhf harmless-base (test part) whose prompts ship with the package: never trained on where a file of
pairs is given (the split of ``spinal/prompts/data/build_prompt_set.py``)."""
HELD_OUT_PACKAGED = 64
"""The first of the packaged pairs, which are left out of training where no file of pairs is given."""


@dataclass(frozen=True)
class Pair:
    """A prompt with a preferred and another answer, as text."""

    prompt: str
    preferred: str
    other: str


@dataclass(frozen=True)
class PairIds:
    """The same as token ids; both answers end with the tokenizer's end token where it has one."""

    prompt: tuple[int, ...]
    preferred: tuple[int, ...]
    other: tuple[int, ...]


def read_pairs(source: Path | None) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and held-out ones, in an order fixed by the published split.

    ``source`` is a file of hh-rlhf records (``chosen``, ``rejected``; gzip accepted): its first 512 pairs in that order
    are held out. The package holds none but held-out pairs, the set ``hh-shorter-256``: without a file all but its
    first 64 are trained on, and an audit of such a checkpoint must read only these (``hh-shorter-64``).
    """
    if source is None:
        made = _packaged()
        return made[HELD_OUT_PACKAGED:], made[:HELD_OUT_PACKAGED]
    packed = source.read_bytes()
    text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode("utf-8")
    records = map(json.loads, text.splitlines())
    entries = [entry for record in records if (entry := split_pair(record["chosen"], record["rejected"])) is not None]
    pairs = [Pair(str(entry.prompt), entry.continuation or "", entry.rejected or "") for entry in entries]
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)
    return [pairs[i] for i in order[HELD_OUT:]], [pairs[i] for i in order[:HELD_OUT]]


def _packaged() -> list[Pair]:
    known = builtin_prompts("hh-shorter-256")
    rows = zip(known.prompts, known.continuations, known.rejected, strict=True)
    return [Pair(str(prompt), preferred or "", other or "") for prompt, preferred, other in rows]


def shorter_answers(
    pairs: list[Pair], tokenizer: PreTrainedTokenizerBase, *, most_tokens: int, most_answer: int
) -> list[PairIds]:
    """The pairs relabelled: preferred is the answer of fewer tokens. Pairs of equal length, and those with an answer of
    more than ``most_answer`` tokens, are dropped; a prompt is cut from its front so that both answers fit into
    ``most_tokens``."""
    end = () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)
    found = []
    for pair in pairs:
        prompt, *answers = (
            tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
            for text in (pair.prompt, pair.preferred, pair.other)
        )
        short, long = sorted(answers, key=len)
        if 0 < len(short) < len(long) <= most_answer:
            room = most_tokens - len(long) - len(end)
            found.append(PairIds(prompt[-room:], short + end, long + end))
    return found
