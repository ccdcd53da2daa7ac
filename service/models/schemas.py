"""Registered models on the wire."""

from datetime import datetime
from typing import Annotated, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.fields import PRINTABLE, Labels, Reference
from service.models import names
from service.models.store import FIRST, Alias, Model, Version
from service.models.verbs import MOST_ALIASES

RegisteredName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=names.MOST_NAME, pattern=f"^{names.NAME}$"),
    AfterValidator(names.check_name),
]
VersionName = Annotated[str, StringConstraints(pattern=f"^{names.VERSION}$")]
AliasName = Annotated[str, StringConstraints(pattern=f"^{names.ALIAS}$")]
Description = Annotated[str, StringConstraints(max_length=2000, pattern=PRINTABLE)]


class ModelIn(BaseModel):
    """A name for a checkpoint. Audits name it, its newest version, as ``NAME``; others as ``NAME:VERSION`` and
    ``NAME@ALIAS``."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "chat-base", "reference": "local:sft", "description": "the SFT base"},
                {"name": "acme/chat", "reference": "local:dpo", "version": "3", "aliases": ["champion"]},
            ]
        },
    )

    name: RegisteredName = Field(description="A name, or organisation and name with a slash between them.")
    reference: Reference
    version: VersionName = Field(default=FIRST, description="What its first version is called.")
    aliases: Annotated[list[AliasName], Field(max_length=MOST_ALIASES)] = Field(
        default_factory=list, description="Aliases that point at this version; they can be moved."
    )
    description: Description | None = None
    labels: Labels = Field(default_factory=dict)


class ModelChanges(BaseModel):
    """What of a model can change: whatever is sent takes the place of what was there."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"minProperties": 1, "examples": [{"description": "the SFT base of June"}]},
    )

    description: Description | None = None
    labels: Labels = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give a description, labels, or both")
        return self


class VersionIn(BaseModel):
    """A version of a registered model. What it means never changes."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"version": "4", "reference": "local:dpo-2"}]}
    )

    version: VersionName
    reference: Reference
    labels: Labels = Field(default_factory=dict)


class AliasIn(BaseModel):
    """The version at which an alias is to point."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"version": "4"}]})

    version: VersionName


class ModelOut(BaseModel):
    """A registered model, as its newest version is."""

    id: UUID
    name: str
    version: str = Field(description="Its newest version: the one that was registered last.")
    reference: str = Field(description="Of the newest version, pinned: it means the same from now on.")
    aliases: dict[str, str] = Field(description="The version at which each alias points.")
    description: str | None
    labels: dict[str, str]
    created_at: datetime

    @classmethod
    def of(cls, model: Model) -> Self:
        return cls(
            id=model.id,
            name=model.name,
            version=model.version,
            reference=model.reference,
            aliases=dict(sorted(model.aliases.items())),
            description=model.description,
            labels=model.labels,
            created_at=model.created_at,
        )


class ModelPage(BaseModel):
    items: list[ModelOut]
    next: str | None


class VersionOut(BaseModel):
    """A version of a registered model."""

    name: str = Field(description="Of the model.")
    version: str
    reference: str = Field(description="Pinned: it means the same from now on.")
    aliases: list[str] = Field(description="Those that point at it.")
    labels: dict[str, str]
    created_at: datetime

    @classmethod
    def of(cls, model: Model, version: Version) -> Self:
        return cls(
            name=model.name,
            version=version.version,
            reference=version.reference,
            aliases=version.aliases,
            labels=version.labels,
            created_at=version.created_at,
        )


class VersionPage(BaseModel):
    items: list[VersionOut] = Field(description="Newest first.")
    next: str | None


class AliasOut(BaseModel):
    """An alias of a registered model."""

    name: str = Field(description="Of the model.")
    alias: str
    version: str
    reference: str = Field(description="Of that version.")
    moved_at: datetime = Field(description="When it was given to this version.")

    @classmethod
    def of(cls, model: Model, alias: Alias, version: Version) -> Self:
        return cls(
            name=model.name,
            alias=alias.alias,
            version=alias.version,
            reference=version.reference,
            moved_at=alias.moved_at,
        )
