"""Prompt sets on the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.http.fields import ModelName
from spinal.documents.base import Digest
from spinal.prompts.records import Entry, split_conversation
from spinal.prompts.sets import Message

# NUL cannot be stored as JSON by Postgres; other control characters are legitimate in prompts.
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"^[^\x00]*$")]


class MessageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]
    content: PromptText


class PromptIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: PromptText
    continuation: PromptText | None = None

    def read(self) -> Entry | None:
        """The prompt and its continuation."""
        return Entry(self.prompt, self.continuation)


class ChatIn(BaseModel):
    """Messages, which become text under each checkpoint's own chat template. Where the assistant has the last word,
    that is the continuation."""

    model_config = ConfigDict(extra="forbid")

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=1_000)]

    def read(self) -> Entry | None:
        """The chat and its continuation; None where there is nothing before the continuation."""
        return split_conversation(tuple(Message(message.role, message.content) for message in self.messages))


class PromptSetIn(BaseModel):
    """Exact duplicates and blank prompts are dropped."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "smoke", "prompts": [{"prompt": "How do I reset a password?"}]}]},
    )

    name: ModelName | None = None
    prompts: Annotated[list[PromptIn | ChatIn], Field(min_length=1, max_length=10_000)]


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
