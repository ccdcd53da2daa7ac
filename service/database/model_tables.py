"""Rows of registered models, their versions and their aliases."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.database.record import EMPTY, NOW, Record


class ModelRecord(Record):
    """A registered model: a name for a reference. A trigger gives each its first version where whoever inserts it does
    not."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("tenant", "name", name="uq_models_tenant_name"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]
    reference: Mapped[str]
    """That of the newest version: code from before reads it here."""
    description: Mapped[str | None]
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ModelVersionRecord(Record):
    """What a model was at one time. Immutable: what names it means the same for ever."""

    __tablename__ = "model_versions"
    __table_args__ = (
        CheckConstraint("number >= 1", name="number"),
        UniqueConstraint("model_id", "number", name="uq_model_versions_number"),
    )

    model_id: Mapped[UUID] = mapped_column(ForeignKey("models.id"), primary_key=True)
    version: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    """Grows with each that is registered: the newest has the highest."""
    reference: Mapped[str]
    """Pinned: it means the same from now on."""
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ModelAliasRecord(Record):
    """A name for one version of a model, which may be given to another."""

    __tablename__ = "model_aliases"
    __table_args__ = (
        # Nobody deletes the version that an alias points at.
        ForeignKeyConstraint(
            ["model_id", "version"],
            ["model_versions.model_id", "model_versions.version"],
            name="fk_model_aliases_version",
        ),
        Index("ix_model_aliases_version", "model_id", "version"),
    )

    model_id: Mapped[UUID] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[str]
    moved_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When it was given to this version."""
