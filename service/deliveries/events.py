"""What is told of: types of events, and the event as deliveries read it. Triggers write them (migration 0021)."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

TYPES = {
    "audit.succeeded": "An audit has its results and, where it has a reference, its verdict",
    "audit.failed": "An audit could not be carried out",
    "audit.cancelled": "An audit was ended before it had a result",
    "series.status": "The status of a series has changed",
    "series.ended": "A series is closed, and all of its members have ended",
    "webhook.test": "Somebody asked for a test",
}
"""Type -> what has happened."""
COLUMNS = "e.id, e.tenant, e.type, e.subject_kind, e.subject, e.detail, e.created_at"


@dataclass(frozen=True)
class Event:
    id: UUID
    tenant: str
    type: str
    subject_kind: str
    """``audit``, ``series`` or ``webhook``."""
    subject: UUID
    detail: dict[str, Any]
    """What was so at that moment."""
    created_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> "Event":
        return cls(row.id, row.tenant, row.type, row.subject_kind, row.subject, row.detail, row.created_at)


def add_event(
    session: Session, tenant: str, kind: str, subject_kind: str, subject: UUID, detail: dict[str, Any]
) -> Event:
    """An event that no trigger writes. Nobody is told of it but by deliveries that are made in its transaction."""
    row = session.execute(
        text(
            f"""INSERT INTO events AS e (tenant, type, subject_kind, subject, detail, sent_out_at)
                VALUES (:tenant, :type, :kind, :subject, CAST(:detail AS jsonb), now()) RETURNING {COLUMNS}"""  # noqa: S608  a constant
        ),
        {"tenant": tenant, "type": kind, "kind": subject_kind, "subject": subject, "detail": json.dumps(detail)},
    ).one()
    return Event.of(row)


def find_event(session: Session, event_id: UUID) -> Event | None:
    row = session.execute(text(f"SELECT {COLUMNS} FROM events e WHERE e.id = :id"), {"id": event_id}).one_or_none()  # noqa: S608  a constant
    return None if row is None else Event.of(row)
