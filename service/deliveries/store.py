"""Deliveries as workers read them, and what came of their attempts."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.deliveries.events import Event, find_event


@dataclass(frozen=True)
class Delivery:
    id: UUID
    digest: str
    target: str
    webhook_id: UUID | None
    place: dict[str, Any]
    sent_again: int
    event: Event


@dataclass(frozen=True)
class Try:
    """What came of one attempt."""

    ok: bool
    took_ms: int
    status: int | None = None
    detail: str | None = None
    """What went wrong, in one line that the tenant reads."""


def find_delivery(session: Session, delivery_id: UUID) -> Delivery | None:
    row = session.execute(
        text("""SELECT id, digest, target, webhook_id, place, sent_again, event_id FROM deliveries WHERE id = :id"""),
        {"id": delivery_id},
    ).one_or_none()
    event = None if row is None else find_event(session, row.event_id)
    if row is None or event is None:
        return None
    return Delivery(row.id, row.digest, row.target, row.webhook_id, row.place, row.sent_again, event)


def add_try(session: Session, delivery_id: UUID, attempt: int, tried: Try) -> None:
    """In the transaction that ends the attempt."""
    session.execute(
        text("""INSERT INTO delivery_tries (delivery_id, attempt, took_ms, ok, status, detail)
                VALUES (:delivery, :attempt, :took, :ok, :status, :detail) ON CONFLICT DO NOTHING"""),
        {
            "delivery": delivery_id,
            "attempt": attempt,
            "took": tried.took_ms,
            "ok": tried.ok,
            "status": tried.status,
            "detail": tried.detail,
        },
    )
