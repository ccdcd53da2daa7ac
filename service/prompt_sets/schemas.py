"""Prompt sets on the wire."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.fields import ModelName
from spinal.documents.base import Digest
from spinal.prompts.sets import Message, Prompt

# NUL cannot be stored as JSON by Postgres; other control characters are legitimate in prompts.
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"^[^\x00]*$")]


class MessageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
    content: PromptText


class PromptIn(BaseModel):
    """Text, or the messages of a chat, which become text under each checkpoint's own chat template. Where the
    assistant has the last word, that is the continuation."""

    model_config = ConfigDict(extra="forbid")

    prompt: PromptText | None = None
    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=1_000)] | None = None
    continuation: PromptText | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give 'prompt' or 'messages'")
        if self.messages and self.messages[-1].role == "assistant":
            if self.continuation is not None:
                raise ValueError("the last message is the continuation: leave out one of them")
            if len(self.messages) == 1:
                raise ValueError("a chat needs a message before the assistant's")
        return self

    def read(self) -> tuple[Prompt, str | None]:
        """The prompt and its continuation."""
        if self.messages is None:
            return self.prompt or "", self.continuation
        *before, last = [Message(message.role, message.content) for message in self.messages]
        if last.role == "assistant":
            return tuple(before), last.content
        return (*before, last), self.continuation


class PromptSetIn(BaseModel):
    """Exact duplicates and blank prompts are dropped."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "smoke", "prompts": [{"prompt": "How do I reset a password?"}]}]},
    )

    name: ModelName | None = None
    prompts: Annotated[list[PromptIn], Field(min_length=1, max_length=10_000)]


class PromptSetOut(BaseModel):
    digest: Digest
    name: str | None
    count: int
    builtin: bool
    remarks: list[str] = Field(
        default=[], description="What was left out of the prompts that were sent; empty in lists."
    )


class PromptSetPage(BaseModel):
    items: list[PromptSetOut]
