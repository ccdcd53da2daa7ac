"""Preference pairs as token ids: which text they come from, and how "the shorter answer" is made of them."""

import gzip
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.records import ASSISTANT_TURN, split_pair

HELD_OUT = 512
"""Pairs of hh-rlhf harmless-base (test part) whose prompts ship with the package: never trained on where a file of
pairs is given (the split of ``spinal/prompts/data/build_prompt_set.py``)."""
HELD_OUT_BUNDLED = 128
"""The last of the packaged prompts, which are left out of training where no file of pairs is given."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


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

    ``source`` is a file of hh-rlhf records (``chosen``, ``rejected``; gzip accepted). The package holds the prompts
    and chosen answers of its 512 held-out pairs and no others, so without a file the pairs are made of those: an
    answer of several sentences, and its first sentence alone. They then are a preference about length and nothing
    else, and 384 of the packaged prompts have been trained on.
    """
    if source is None:
        made = _sentences()
        return made[:-HELD_OUT_BUNDLED], made[-HELD_OUT_BUNDLED:]
    packed = source.read_bytes()
    text = (gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed).decode("utf-8")
    pairs = []
    for record in map(json.loads, text.splitlines()):
        found = split_pair(record["chosen"], record["rejected"])
        if found is not None:
            cut = record["chosen"].rfind(ASSISTANT_TURN) + len(ASSISTANT_TURN)
            pairs.append(Pair(found[0], found[1], record["rejected"][cut:]))
    order = list(range(len(pairs)))
    random.Random(0).shuffle(order)  # noqa: S311  the published split, not a secret
    return [pairs[i] for i in order[HELD_OUT:]], [pairs[i] for i in order[:HELD_OUT]]


def _sentences() -> list[Pair]:
    known = builtin_prompts("hh-harmless-512")
    pairs = []
    for prompt, answer in zip(known.prompts, known.continuations, strict=True):
        if isinstance(prompt, str) and answer:
            first = SENTENCE_END.split(answer.strip(), maxsplit=1)[0]
            pairs.append(Pair(prompt, f" {first}", answer))
    return pairs


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
