"""Registered models on the wire."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.database.tables import ModelRecord
from service.http.fields import PRINTABLE, Labels, ModelName, Reference


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
