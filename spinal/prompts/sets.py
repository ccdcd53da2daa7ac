"""Prompt sets: what a measurement reads, in order, without exact duplicates, with an identity."""

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
        for number, pair in enumerate(zip(self.prompts, self.continuations, strict=True), start=1):
            check_text(*pair, where=f"prompt {number}")

    @cached_property
    def digest(self) -> str:
        """sha256 over prompts and continuations, in order; the name does not count."""
        prompts = [prompt_to_json(prompt) for prompt in self.prompts]
        return digest_of({"prompts": prompts, "continuations": self.continuations})

    def __len__(self) -> int:
        return len(self.prompts)


def check_text(prompt: Prompt, continuation: str | None, *, where: str) -> None:
    """Whether all of it is text that UTF-8 can hold; raises PromptSetInvalid."""
    messages = prompt if isinstance(prompt, tuple) else ()
    if not isinstance(prompt, str) and not all(isinstance(message, Message) for message in messages or (prompt,)):
        raise PromptSetInvalid(f"{where} is no text, nor messages", hint="give prompts as text")
    parts = [prompt] if isinstance(prompt, str) else [part for message in messages for part in message]
    for text in [*parts, continuation or ""]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptSetInvalid(
                f"{where}: half of a surrogate pair (\\u{ord(text[error.start]):04x}) is no character",
                hint="write the character whole, or remove it",
            ) from error
