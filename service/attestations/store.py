"""Attestations in the ledger: kept once, never changed."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

MOST_LISTED = 200
"""One for each predicate and key: no service has had so many keys."""


@dataclass(frozen=True)
class Attestation:
    """A signed statement, as it was first given out. Its members are columns of ``attestations``."""

    audit_id: UUID
    predicate_type: str
    key_id: str
    statement: dict[str, Any]
    envelope: dict[str, Any]
    created_at: datetime


COLUMNS = "audit_id, predicate_type, key_id, statement, envelope, created_at"


def find_attestation(
    session: Session, tenant: str, audit_id: UUID, predicate_type: str, key_id: str
) -> Attestation | None:
    row = session.execute(
        text(f"""SELECT {COLUMNS} FROM attestations WHERE audit_id = :audit AND predicate_type = :type
                   AND key_id = :key AND tenant = :tenant"""),  # noqa: S608  a constant of this module
        {"audit": audit_id, "type": predicate_type, "key": key_id, "tenant": tenant},
    ).one_or_none()
    return None if row is None else _attestation(row)


def list_attestations(session: Session, tenant: str, audit_id: UUID) -> list[Attestation]:
    """All that were given out of an audit, in the order in which they were."""
    rows = session.execute(
        text(f"""SELECT {COLUMNS} FROM attestations WHERE audit_id = :audit AND tenant = :tenant
                 ORDER BY created_at, predicate_type, key_id LIMIT :most"""),  # noqa: S608  a constant of this module
        {"audit": audit_id, "tenant": tenant, "most": MOST_LISTED},
    )
    return [_attestation(row) for row in rows]


def keep_attestation(
    session: Session,
    tenant: str,
    audit_id: UUID,
    predicate_type: str,
    key_id: str,
    *,
    statement: dict[str, Any],
    envelope: dict[str, Any],
) -> None:
    """Keep what was signed, unless somebody else's was kept meanwhile."""
    session.execute(
        text("""INSERT INTO attestations (audit_id, predicate_type, key_id, tenant, statement, envelope)
                VALUES (:audit, :type, :key, :tenant, CAST(:statement AS jsonb), CAST(:envelope AS jsonb))
                ON CONFLICT (audit_id, predicate_type, key_id) DO NOTHING"""),
        {
            "audit": audit_id,
            "type": predicate_type,
            "key": key_id,
            "tenant": tenant,
            "statement": json.dumps(statement),
            "envelope": json.dumps(envelope),
        },
    )


def weights_of_trace(session: Session, digest: str) -> str | None:
    """The weights digest of a trace."""
    found: str | None = session.execute(
        text("SELECT weights_digest FROM traces WHERE digest = :digest"), {"digest": digest}
    ).scalar()
    return found


def _attestation(row: Row[Any]) -> Attestation:
    return Attestation(**row._asdict())
