"""Models, prompt sets and traces on the wire."""

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.api.schemas.audits import PRINTABLE, Labels, Reference
from service.ledger.tables import ModelRecord
from spinal.analysis.diff import TraceDiff
from spinal.comparison import Comparison
from spinal.documents import Digest

ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
# NUL cannot be stored as JSON by Postgres; other control characters are legitimate in prompts.
PromptText = Annotated[str, StringConstraints(min_length=1, max_length=200_000, pattern=r"^[^\x00]*$")]


class ModelIn(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "chat-base", "reference": "local:sft", "description": "the SFT base"}]
        },
    )

    name: ModelName
    reference: Reference
    description: Annotated[str, StringConstraints(max_length=2000, pattern=PRINTABLE)] | None = None
    labels: Labels = Field(default_factory=dict)


class ModelOut(BaseModel):
    id: UUID
    name: str
    reference: str
    description: str | None
    labels: dict[str, str]
    created_at: datetime

    @classmethod
    def of(cls, record: ModelRecord) -> Self:
        return cls(
            id=record.id,
            name=record.name,
            reference=record.reference,
            description=record.description,
            labels=record.labels,
            created_at=record.created_at,
        )


class ModelPage(BaseModel):
    items: list[ModelOut]
    next: str | None


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


class TraceHead(BaseModel):
    digest: Digest
    source: str
    weights_digest: Digest
    prompt_set_digest: Digest
    fingerprint: Digest
    engine_version: str
    n_layers: int
    created_at: datetime

    @classmethod
    def of(cls, row: Any) -> Self:
        return cls(**{name: getattr(row, name) for name in cls.model_fields})


class TracePage(BaseModel):
    items: list[TraceHead]
    next: str | None


class DiffOut(BaseModel):
    """Differences at once; ``comparison`` adds intervals where an audit of this pair was made."""

    diff: TraceDiff
    comparison: Comparison | None


class Health(BaseModel):
    status: str = Field(examples=["ok"])
