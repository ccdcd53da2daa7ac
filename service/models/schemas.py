"""Registered models on the wire."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.http.fields import PRINTABLE, Labels, ModelName, Reference
from service.models.store import Model


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
    def of(cls, model: Model) -> Self:
        return cls(
            id=model.id,
            name=model.name,
            reference=model.reference,
            description=model.description,
            labels=model.labels,
            created_at=model.created_at,
        )


class ModelPage(BaseModel):
    items: list[ModelOut]
    next: str | None
