"""Prompt sets on the wire."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.http.fields import ModelName
from spinal.documents.base import Digest

# NUL cannot be stored as JSON by Postgres; other control characters are legitimate in prompts.
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"^[^\x00]*$")]


class PromptIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: PromptText
    continuation: PromptText | None = None


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


class PromptSetPage(BaseModel):
    items: list[PromptSetOut]
