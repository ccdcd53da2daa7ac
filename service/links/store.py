"""Whose what a link names is, and since when links of a tenant are void."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.platform.links import Kind

ASKED = """SELECT {table}.tenant, now() AS now, revoked_at FROM {table}
  LEFT JOIN link_revocations r ON r.tenant = {table}.tenant
  WHERE {table}.id = :id AND NOT EXISTS (SELECT 1 FROM deleted_tenants
    WHERE digest = encode(sha256(convert_to({table}.tenant, 'UTF8')), 'hex'))"""
AUDIT, SERIES = ASKED.format(table="audits"), ASKED.format(table="series")


@dataclass(frozen=True)
class Owned:
    """Whose an audit or a series is."""

    tenant: str
    now: datetime
    """By the database's clock."""
    revoked_at: datetime | None
    """Links that were made by then open nothing any more."""


def find_owner(session: Session, kind: Kind, subject: UUID) -> Owned | None:
    """None for what is not there, or belongs to a tenant whose data are being deleted."""
    row = session.execute(text(AUDIT) if kind == "audit" else text(SERIES), {"id": subject}).one_or_none()
    return None if row is None else Owned(row.tenant, row.now, row.revoked_at)


def revoke_links(session: Session, tenant: str) -> datetime:
    """From now on no link that was made before opens anything."""
    found: datetime = session.execute(
        text("""INSERT INTO link_revocations (tenant) VALUES (:tenant)
                ON CONFLICT (tenant) DO UPDATE SET revoked_at = GREATEST(link_revocations.revoked_at, now())
                RETURNING revoked_at"""),
        {"tenant": tenant},
    ).scalar_one()
    return found
