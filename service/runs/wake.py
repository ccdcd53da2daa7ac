"""Waking dispatchers: a notification says that some run may have become due."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

CHANNEL = "spinal_runs"


def wake_dispatchers(session: Session, run_id: UUID) -> None:
    """When the transaction commits, dispatchers look for due runs at once."""
    session.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": CHANNEL, "payload": str(run_id)})
