"""Notifications: to dispatchers, that some run may have become due, and to whoever waits for an audit or a series."""

from collections.abc import Collection
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

CHANNEL = "spinal_runs"
ENDED = "spinal_ended"
"""Channel on which the id of an audit that has ended is told, and that of the series of which it is a member."""


def wake_dispatchers(session: Session, run_id: UUID) -> None:
    """When the transaction commits, dispatchers look for due runs at once."""
    session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": str(run_id)})


def tell_waiters(session: Session, audit_id: UUID, series_id: UUID | None) -> None:
    """When the transaction commits, whoever waits for the audit, or for its series, looks at it. Of a series every
    member's end is told: of two that end at once, neither transaction sees that it is the last."""
    session.execute(
        text("SELECT pg_notify(:channel, CAST(id AS text)) FROM unnest(CAST(:ids AS uuid[])) AS id"),
        {"channel": ENDED, "ids": [audit_id] if series_id is None else [audit_id, series_id]},
    )


def still_going(session: Session, ids: Collection[UUID]) -> set[UUID]:
    """Of audits and series, those that have not ended: audits in flight, and series with such members."""
    rows = session.execute(
        text("""SELECT id FROM audits WHERE id = ANY(:ids) AND state IN ('QUEUED','RUNNING')
                UNION ALL
                SELECT id FROM series WHERE id = ANY(:ids) AND EXISTS (
                  SELECT 1 FROM series_members m JOIN audits a ON a.id = m.audit_id
                  WHERE m.series_id = series.id AND a.state IN ('QUEUED','RUNNING'))"""),
        {"ids": list(ids)},
    )
    return {UUID(str(row.id)) for row in rows}
