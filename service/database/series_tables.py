"""Rows of series and their members."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database.record import EMPTY, NOW, Record


class SeriesRecord(Record):
    """A training run as one caller follows it: what its checkpoints are compared with and judged by, and the document
    that was worked out last."""

    __tablename__ = "series"
    __table_args__ = (
        CheckConstraint(
            "status IN ('destabilised','inconclusive','insufficient_series','watch','healthy')", name="status"
        ),
        CheckConstraint("(status IS NULL) = (document IS NULL)", name="status_of_document"),
        CheckConstraint("cancelled_at IS NULL OR closed_at IS NOT NULL", name="cancelled_is_closed"),
        CheckConstraint("(idempotency_key IS NULL) = (body_digest IS NULL)", name="idempotency"),
        CheckConstraint("covers_settled BETWEEN 0 AND covers_members", name="covers"),
        ForeignKeyConstraint(
            ["tenant", "policy"], ["policies.tenant", "policies.digest"], name="fk_series_tenant_policies"
        ),
        Index("ix_series_tenant_created", "tenant", text("created_at DESC"), text("id DESC")),
        Index("ix_series_tenant_policy", "tenant", "policy"),
        Index("ix_series_labels", "labels", postgresql_using="gin"),
        Index(
            "uq_series_idempotency",
            "tenant",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # Those of which another document may still have to be made.
        Index(
            "ix_series_unfinished",
            "id",
            postgresql_where=text("document IS NULL OR NOT covers_closed OR covers_settled < covers_members"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    description: Mapped[str | None]
    reference: Mapped[str]
    """As it was named."""
    policy: Mapped[str]
    """Digest of the policy that members and series are judged by."""
    spec: Mapped[dict[str, Any]]
    """What every member is audited with: prompt set, profile, control, priority."""
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    """``SeriesSettings``."""
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=EMPTY)
    closed_at: Mapped[datetime | None]
    """From here on no member comes."""
    cancelled_at: Mapped[datetime | None]
    status: Mapped[str | None]
    """That of the document, by which series are listed."""
    document: Mapped[dict[str, Any] | None]
    """``spinal.series/1``, as it was worked out last."""
    covers_members: Mapped[int] = mapped_column(server_default=text("0"))
    """How many members the document knows."""
    covers_settled: Mapped[int] = mapped_column(server_default=text("0"))
    """How many of them had ended."""
    covers_closed: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    """Whether it knows that the series is closed."""
    idempotency_key: Mapped[str | None]
    body_digest: Mapped[str | None]
    """sha256 of the request under RFC 8785."""
    request_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SeriesMemberRecord(Record):
    """One checkpoint of a series. Never changed, never deleted."""

    __tablename__ = "series_members"
    __table_args__ = (CheckConstraint("step >= 0", name="step"),)

    series_id: Mapped[UUID] = mapped_column(ForeignKey("series.id"), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    model: Mapped[str]
    """As it was named."""
    audit_id: Mapped[UUID] = mapped_column(ForeignKey("audits.id"), unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
