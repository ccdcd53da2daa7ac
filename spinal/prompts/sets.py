"""Prompt sets: what a measurement reads, in order, without exact duplicates, with an identity."""

from dataclasses import dataclass
from functools import cached_property

from spinal.documents.canonical import digest_of
from spinal.errors import PromptSetEmpty, PromptSetInvalid


@dataclass(frozen=True)
class PromptSet:
    """Ordered prompts, exact duplicates removed, each with its own continuation where the source has one."""

    prompts: tuple[str, ...]
    continuations: tuple[str | None, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptSetEmpty("the prompt set holds no prompt", hint="give at least one non-empty prompt")
        if len(self.prompts) != len(self.continuations):
            raise PromptSetInvalid("prompts and continuations differ in number")

    @cached_property
    def digest(self) -> str:
        """sha256 over prompts and continuations, in order; the name does not count."""
        return digest_of({"prompts": self.prompts, "continuations": self.continuations})

    def __len__(self) -> int:
        return len(self.prompts)


def make_prompt_set(pairs: list[tuple[str, str | None]], *, name: str | None, origin: str) -> PromptSet:
    """Drop blank prompts and exact duplicates (first occurrence wins); raises PromptSetEmpty."""
    seen: dict[str, str | None] = {}
    for prompt, continuation in pairs:
        if prompt.strip() and prompt not in seen:
            seen[prompt] = continuation if continuation and continuation.strip() else None
    if not seen:
        raise PromptSetEmpty(f"{origin} holds no usable prompt", hint="give at least one non-empty prompt")
    return PromptSet(tuple(seen), tuple(seen.values()), name)
