"""What the runs are trained on, audited on, and what tells when one broke: no text is in two of the three.

English: dialogues of the packaged sets (people's own words, offensive in places). German: questions and answers made
from a few words, so that a small model learns them in a minute, and so that it can be seen to forget them.
"""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

MOST_TOKENS, MOST_ANSWER = 64, 48
"""Of a text to train on; a longer prompt is cut from its front, a pair with a longer answer left out."""
AUDITED_PAIRS, AUDITED_GERMAN, AUDITED_ANSWER = 28, 20, 28
"""Prompts of an audit, and the tokens of an answer that keep the account of the margin cheap."""
HELD_OUT = 32
"""Texts of each language that tell when a run broke."""
WHO = ["Hund", "Mann", "Vater", "Lehrer", "Bruder", "Freund", "Vogel", "Koch", "Arzt", "Nachbar", "Schüler", "Gast"]
WHERE = ["Garten", "Haus", "Wald", "Park", "Zimmer", "Dorf", "Zug", "Bett"]
WHEN = ["am Morgen", "am Abend", "am Montag", "im Sommer", "im Winter"]
DOES = ["schläft", "arbeitet", "singt", "wartet", "liest", "spielt"]


@dataclass(frozen=True)
class Pair:
    """A prompt, the shorter answer and the longer one, as token ids; both answers end with the end token."""

    prompt: tuple[int, ...]
    shorter: tuple[int, ...]
    longer: tuple[int, ...]


@dataclass(frozen=True)
class Text:
    """A prompt and its answer, as token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Texts:
    """All of it."""

    pairs: list[Pair]
    """English, to prefer the shorter answer of."""
    english: list[Text]
    german: list[Text]
    """To train on."""
    audited: PromptSet
    """Categories ``english`` (with pairs) and ``german``."""
    held_out: dict[str, list[Text]]
    """By language."""


def read_texts(tokenizer: PreTrainedTokenizerBase) -> Texts:
    """The same texts every time."""
    packaged = builtin_prompts("hh-shorter-256")
    audited: list[tuple[str, str, str | None, str]] = []
    pairs: list[Pair] = []
    for prompt, short, long in zip(packaged.prompts, packaged.continuations, packaged.rejected, strict=True):
        found = _pair(tokenizer, str(prompt), short or "", long or "")
        if found is not None and len(audited) < AUDITED_PAIRS and len(found.longer) <= AUDITED_ANSWER:
            audited.append((str(prompt), short or "", long or "", "english"))
        elif found is not None:
            pairs.append(found)
    german = german_dialogues()
    apart, german = german[: AUDITED_GERMAN + HELD_OUT], german[AUDITED_GERMAN + HELD_OUT :]
    audited += [(asked, answer, None, "german") for asked, answer in apart[:AUDITED_GERMAN]]
    prompts, preferred, other, categories = zip(*audited, strict=True)
    others = builtin_prompts("hh-harmless-512")
    known = set(packaged.prompts)
    english = [
        (str(prompt), answer or "")
        for prompt, answer in zip(others.prompts, others.continuations, strict=True)
        if prompt not in known
    ]
    return Texts(
        pairs=pairs,
        english=[text_ids(tokenizer, *each) for each in english[HELD_OUT:]],
        german=[text_ids(tokenizer, *each) for each in german],
        audited=PromptSet(prompts, preferred, "series", rejected=other, categories=categories),
        held_out={
            "english": [text_ids(tokenizer, *each) for each in english[:HELD_OUT]],
            "german": [text_ids(tokenizer, *each) for each in apart[AUDITED_GERMAN:]],
        },
    )


def german_dialogues() -> list[tuple[str, str]]:
    """Every question with its answer, in an order fixed once."""
    found = []
    for who in WHO:
        for where in WHERE:
            for when in WHEN:
                does = DOES[(len(who) + len(where) + len(when)) % len(DOES)]
                asked = f"\n\nHuman: Was macht der {who} {when}?\n\nAssistant:"
                found.append((asked, f" Der {who} ist {when} im {where}, und er {does} dort."))
    random.Random(0).shuffle(found)
    return found


def _pair(tokenizer: PreTrainedTokenizerBase, prompt: str, shorter: str, longer: str) -> Pair | None:
    short, long = _answer(tokenizer, shorter), _answer(tokenizer, longer)
    if len(long) > MOST_ANSWER or len(short) >= len(long):
        return None
    return Pair(_prompt(tokenizer, prompt, MOST_TOKENS - len(long)), short, long)


def text_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> Text:
    """A prompt and its answer as ids, cut to :data:`MOST_TOKENS`."""
    ids = _answer(tokenizer, answer)[-MOST_ANSWER:]
    return Text(_prompt(tokenizer, prompt, MOST_TOKENS - len(ids)), ids)


def _prompt(tokenizer: PreTrainedTokenizerBase, text: str, room: int) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])[-room:]


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return (*tokenizer(text, add_special_tokens=False)["input_ids"], int(tokenizer.eos_token_id))
