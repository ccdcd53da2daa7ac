"""Rows of what tenants hold, of tenants whose data were deleted, and of work that is done now and then."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Identity, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database.record import NOW, Record


class TenantCountRecord(Record):
    """How much a tenant holds of what has a limit, without the changes that nobody has added up yet."""

    __tablename__ = "tenant_counts"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    what: Mapped[str] = mapped_column(primary_key=True)
    held: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class TenantCountChangeRecord(Record):
    """A change of a count. Triggers add it where a row comes or goes; whoever needs the count adds them up."""

    __tablename__ = "tenant_count_changes"
    __table_args__ = (Index("ix_tenant_count_changes_tenant", "tenant", "what"),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str]
    what: Mapped[str]
    change: Mapped[int] = mapped_column(BigInteger)


class DeletedTenantRecord(Record):
    """A tenant whose data are being deleted, or were lately: triggers refuse rows of requests that were admitted
    before."""

    __tablename__ = "deleted_tenants"

    digest: Mapped[str] = mapped_column(primary_key=True)
    """sha256 of its name."""
    deleted_at: Mapped[datetime] = mapped_column(server_default=NOW)


class LinkRevocationRecord(Record):
    """Links to reports of the tenant that were made before open nothing any more."""

    __tablename__ = "link_revocations"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    revoked_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ChoreRecord(Record):
    """Work that one of many processes does now and then."""

    __tablename__ = "chores"

    name: Mapped[str] = mapped_column(primary_key=True)
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """Not before then; while somebody does it, when that is given up."""
    held_by: Mapped[UUID | None]
    """Who does it, or has done it last."""
