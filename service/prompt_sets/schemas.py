"""Prompt sets on the wire."""

from dataclasses import replace
from typing import Annotated, Any, Self

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.fields import PRINTABLE, ModelName
from spinal.documents.base import Digest
from spinal.prompts.records import Entry, read_entry, split_conversation
from spinal.prompts.sets import MAX_CATEGORY, MAX_REFUSAL, MAX_REFUSALS, Message
from spinal.prompts.stored import MAX_MESSAGES, MAX_NAME, MAX_PROMPTS, MAX_ROLE, MAX_TEXT

# NUL cannot be stored as JSON by Postgres; other control characters are legitimate in prompts.
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]

SetNamePath = Annotated[
    str,
    Path(
        min_length=1,
        max_length=MAX_NAME,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="What the tenant calls the set, the name of a built-in one, or a digest.",
    ),
]
Opening = Annotated[str, StringConstraints(min_length=1, max_length=MAX_REFUSAL, pattern=r"^[^\x00]*$")]


class MessageIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ROLE, pattern=r"^[^\x00]*$")]
    content: PromptText


class Described(BaseModel):
    """What may be said of a prompt beside its answer."""

    model_config = ConfigDict(extra="forbid")

    rejected: PromptText | None = Field(
        default=None,
        description="An answer that was not preferred to the one that is given. The accounts of what carries a change "
        "of the preference margin are drawn up over prompts with both.",
    )
    refusal: Opening | Annotated[list[Opening], Field(max_length=MAX_REFUSALS)] | None = Field(
        default=None, description="Openings of an answer that would be a refusal, for the account of refusals."
    )
    category: Annotated[str, StringConstraints(max_length=MAX_CATEGORY, pattern=PRINTABLE)] | None = Field(
        default=None,
        description="What the prompt is an example of. Samples hold every category, and damage is looked for in each.",
    )

    @property
    def further(self) -> dict[str, Any]:
        """The same as members of a record, as files have them."""
        return {name: value for name in ("rejected", "refusal", "category") if (value := getattr(self, name))}


class PromptIn(Described):
    prompt: PromptText
    continuation: PromptText | None = Field(
        default=None, description="Its own answer: of two, the one that was preferred."
    )

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if self.rejected is not None and self.continuation is None:
            raise ValueError("a rejected answer stands beside the preferred one: give it as 'continuation'")
        return self

    def read(self) -> Entry | None:
        """The prompt, and what is known of it."""
        return read_entry({"prompt": self.prompt, "continuation": self.continuation} | self.further, "the request")


class ChatIn(Described):
    """Messages, which become text under each checkpoint's own chat template. Where the assistant has the last word,
    that is the continuation."""

    messages: Annotated[list[MessageIn], Field(min_length=1, max_length=MAX_MESSAGES)]

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> Self:
        if self.rejected is not None and self.messages[-1].role != "assistant":
            raise ValueError("a rejected answer stands beside the preferred one: end the chat with that")
        return self

    def read(self) -> Entry | None:
        """The chat, and what is known of it; None where there is nothing before the continuation."""
        found = split_conversation(tuple(Message(message.role, message.content) for message in self.messages))
        said = read_entry({"prompt": "-", "continuation": found and found.continuation} | self.further, "the request")
        if found is None or said is None:
            return None
        return replace(found, rejected=said.rejected, refusals=said.refusals, category=said.category)


class PromptSetIn(BaseModel):
    """Exact duplicates and blank prompts are dropped."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "smoke", "prompts": [{"prompt": "How do I reset a password?"}]},
                {
                    "name": "preferences",
                    "prompts": [
                        {
                            "prompt": "How do I reset a password?",
                            "continuation": " Open the settings.",
                            "rejected": " Ask somebody else.",
                            "refusal": [" I cannot"],
                            "category": "accounts",
                        }
                    ],
                },
            ]
        },
    )

    name: ModelName | None = None
    prompts: Annotated[list[PromptIn | ChatIn], Field(min_length=1, max_length=MAX_PROMPTS)]


class PromptSetOut(BaseModel):
    digest: Digest
    name: str | None
    count: int
    builtin: bool
    remarks: list[str] = Field(
        default=[], description="What was left out of the prompts that were sent; empty in lists."
    )


class Limits(BaseModel):
    """What this service takes of a prompt set in one request."""

    prompts: int
    characters: int = Field(description="Of one text.")
    bytes: int = Field(description="Of the body.")


class PromptSetPage(BaseModel):
    items: list[PromptSetOut]
    limits: Limits


class ShownMessage(BaseModel):
    role: str
    content: str


class ShownPrompt(BaseModel):
    """A record as files have them: the same as JSON lines store the same set."""

    prompt: str | list[ShownMessage]
    continuation: str | None = None
    rejected: str | list[ShownMessage] | None = Field(
        default=None, description="The answer that was not preferred, behind its prompt."
    )
    refusal: list[str] = []
    category: str | None = None


class PromptSetShown(PromptSetOut):
    categories: dict[str, int] = Field(description="How many prompts are of each; prompts of none are not counted.")
    prompts: list[ShownPrompt] = Field(description="The first of the set, as many as were asked for.")
