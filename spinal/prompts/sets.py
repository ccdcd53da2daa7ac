"""Prompt sets: what a measurement reads, in order, without exact duplicates, with an identity."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from spinal.documents.canonical import digest_of
from spinal.errors import PromptSetEmpty, PromptSetInvalid


class Message(NamedTuple):
    """One turn of a chat."""

    role: str
    content: str


Conversation = tuple[Message, ...]
"""A chat up to where the assistant speaks: it becomes text under the chat template of the checkpoint that reads it."""
Prompt = str | Conversation


MAX_CATEGORY = 100
"""Characters of a category's name."""
MAX_CATEGORIES = 256
"""Categories of one set: beyond, what was given tells single prompts apart, and not kinds of them."""
MAX_REFUSALS, MAX_REFUSAL = 32, 1_000
"""Openings of a refusal for one prompt, and the characters of each."""


def prompt_to_json(prompt: Prompt) -> Any:
    """As it is stored, and as its identity is made: text, or messages."""
    return prompt if isinstance(prompt, str) else [message._asdict() for message in prompt]


def prompt_from_json(stored: Any) -> Prompt:
    """The inverse of :func:`prompt_to_json`."""
    return stored if isinstance(stored, str) else tuple(Message(**message) for message in stored)


@dataclass(frozen=True)
class PromptSet:
    """Ordered prompts, exact duplicates removed, each with its own continuation where the source has one."""

    prompts: tuple[Prompt, ...]
    continuations: tuple[str | None, ...]
    name: str | None = None
    rejected: tuple[str | None, ...] = ()
    """The answer that was not preferred, where the source has pairs; empty where it has none."""
    refusals: tuple[tuple[str, ...], ...] = ()
    """Openings of an answer that would be a refusal, by prompt; empty where the source has none."""
    categories: tuple[str | None, ...] = ()
    """What each prompt is an example of, as the source says; empty where it says nothing."""
    remarks: tuple[str, ...] = field(default=(), compare=False)
    """What was left out of the source, and how it was read. No part of the identity."""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptSetEmpty("the prompt set holds no prompt", hint="give at least one non-empty prompt")
        if len(self.prompts) != len(self.continuations):
            raise PromptSetInvalid("prompts and continuations differ in number")
        for name in FURTHER:
            given = getattr(self, name)
            if given and len(given) != len(self.prompts):
                raise PromptSetInvalid(f"prompts and {name} differ in number")
            if not any(given):
                # A member that says nothing of any prompt is one that is not there.
                object.__setattr__(self, name, ())
        for number, (prompt, continuation) in enumerate(zip(self.prompts, self.continuations, strict=True), start=1):
            check_text(prompt, continuation, where=f"prompt {number}")
        for number in range(1, len(self.prompts) + 1):
            check_further(*(self._of(name, number - 1) for name in FURTHER), where=f"prompt {number}")
        kinds = len(set(self.categories))
        if kinds > MAX_CATEGORIES:
            raise PromptSetInvalid(
                f"the prompts have {kinds} categories, at most {MAX_CATEGORIES} are told apart",
                hint="leave 'category' out, or name fewer kinds of prompts",
            )

    @cached_property
    def digest(self) -> str:
        """sha256 over prompts, continuations and what else is known of them, in order; the name does not count."""
        prompts = [prompt_to_json(prompt) for prompt in self.prompts]
        further = {name: getattr(self, name) for name in FURTHER if getattr(self, name)}
        return digest_of({"prompts": prompts, "continuations": self.continuations} | further)

    def __len__(self) -> int:
        return len(self.prompts)

    def chosen(self, places: Sequence[int], name: str | None = None) -> "PromptSet":
        """The prompts at ``places`` (from 0), in that order, with all that is known of them.

        Examples
        --------
        >>> PromptSet(("a", "b", "c"), (None,) * 3, categories=("x", None, "y")).chosen([2, 0]).categories
        ('y', 'x')
        """
        taken = {
            member: tuple(values[place] for place in places) if (values := getattr(self, member)) else ()
            for member in ("prompts", "continuations", *FURTHER)
        }
        return PromptSet(**taken, name=name)

    def _of(self, name: str, place: int) -> Any:
        values = getattr(self, name)
        return values[place] if values else None


FURTHER = ("rejected", "refusals", "categories")
"""Members of a set that not every source has."""


def check_text(prompt: Prompt, continuation: str | None, *, where: str) -> None:
    """Whether all of it is text that UTF-8 can hold; raises PromptSetInvalid."""
    messages = prompt if isinstance(prompt, tuple) else ()
    if not isinstance(prompt, str) and not all(isinstance(message, Message) for message in messages or (prompt,)):
        raise PromptSetInvalid(f"{where} is no text, nor messages", hint="give prompts as text")
    parts = [prompt] if isinstance(prompt, str) else [part for message in messages for part in message]
    _check_characters([*parts, continuation or ""], where)


def check_further(rejected: str | None, refusals: Sequence[str] | None, category: str | None, *, where: str) -> None:
    """Whether what is said of a prompt beside its continuation is text, and no more than is read; raises
    PromptSetInvalid."""
    refusals = refusals or ()
    if not all(text is None or isinstance(text, str) for text in (rejected, *refusals, category)):
        raise PromptSetInvalid(f"{where}: rejected answer, refusals and category must be text")
    _check_characters([rejected or "", *refusals, category or ""], where)
    if category is not None and not (category.isprintable() and 0 < len(category) <= MAX_CATEGORY):
        raise PromptSetInvalid(
            f"{where}: a category is 1 to {MAX_CATEGORY} printable characters", hint="give it a short name"
        )
    if len(refusals) > MAX_REFUSALS or not all(text.strip() and len(text) <= MAX_REFUSAL for text in refusals):
        raise PromptSetInvalid(
            f"{where}: 'refusal' is at most {MAX_REFUSALS} openings of an answer, each of at most {MAX_REFUSAL} "
            "characters",
            hint="give the first words of an answer that refuses",
        )


def _check_characters(texts: Sequence[str], where: str) -> None:
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptSetInvalid(
                f"{where}: half of a surrogate pair (\\u{ord(text[error.start]):04x}) is no character",
                hint="write the character whole, or remove it",
            ) from error
