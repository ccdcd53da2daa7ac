"""From events to deliveries: each event is sent out once, to everybody who wants it at that moment."""

import json
from collections import Counter
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.deliveries.events import COLUMNS, Event
from service.deliveries.targets import TARGETS, Place
from service.runs.demand import find_or_create_run
from service.runs.kinds import kind_named
from service.settings import Settings
from spinal.documents.canonical import digest_of
from spinal.documents.editions import PRESENT
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)
DELIVER = "deliver"
AT_ONCE = 100
"""Events in one turn of the loop."""
MOST_FAILED = 10
"""Events of one tenant that fail in one turn; the rest of its events waits for the next one."""


def send_out(ledger: Ledger, settings: Settings) -> int:
    """Make the deliveries of some events that were not sent out yet, each in a transaction of its own; returns of how
    many. Any number of processes may do so at once."""
    done, failed = 0, dict[UUID, str]()
    while done < AT_ONCE:
        event = None
        try:
            with ledger.begin() as session:
                event = _next(session, failed)
                if event is None:
                    break
                made = [_deliver_to(session, settings, event, name) for name in TARGETS]
                session.execute(text("UPDATE events SET sent_out_at = now() WHERE id = :id"), {"id": event.id})
        except DatabaseUnavailable:
            raise
        except Exception:
            if event is None:
                raise
            # What one event meets keeps no other waiting.
            log.exception("event not sent out", event_id=str(event.id), type=event.type)
            failed[event.id] = event.tenant
            continue
        done += 1
        if any(made):
            log.info("event sent out", event_id=str(event.id), type=event.type, deliveries=sum(made))
    return done


def _next(session: Session, failed: dict[UUID, str]) -> Event | None:
    """The oldest one that nobody is at, and that has not ``failed`` (id -> tenant) in this turn. Of tenants that are
    being deleted nobody is told."""
    tired = [tenant for tenant, count in Counter(failed.values()).items() if count >= MOST_FAILED]
    row = session.execute(
        text(f"""SELECT {COLUMNS} FROM events e WHERE e.sent_out_at IS NULL
                   AND e.id <> ALL(:failed) AND e.tenant <> ALL(:tired) AND NOT EXISTS (
                   SELECT 1 FROM deleted_tenants d WHERE d.digest = encode(sha256(convert_to(e.tenant, 'UTF8')), 'hex')
                     AND d.deleted_at > now() - interval '1 hour')
                 ORDER BY e.seq LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"""),  # noqa: S608  a constant of events.py
        {"failed": list(failed), "tired": tired},
    ).one_or_none()
    return None if row is None else Event.of(row)


def _deliver_to(session: Session, settings: Settings, event: Event, target: str) -> int:
    places = TARGETS[target].wanted()(session, settings, event)
    for place in places:
        add_delivery(session, settings, event, target, place)
    return len(places)


def add_delivery(
    session: Session, settings: Settings, event: Event, target: str, place: Place, *, sent_again: int = 0
) -> UUID:
    """One delivery and the run that carries it out; the one that there is where there is one. Returns its id."""
    delivery = new_id()
    told = {
        "event": str(event.id),
        "target": target,
        "webhook": None if place.webhook_id is None else str(place.webhook_id),
        "place": place.place,
        "sent_again": sent_again,
    }
    digest = digest_of(told)
    known = session.execute(text("SELECT id FROM deliveries WHERE digest = :digest"), {"digest": digest}).scalar()
    if known is not None:
        return UUID(str(known))
    spec = {"scheme": PRESENT.scheme, "kind": DELIVER, "delivery": str(delivery), "tenant": event.tenant}
    kind = kind_named(DELIVER)
    run = find_or_create_run(session, spec, queue=kind.queue(settings), tenant=event.tenant)
    session.execute(
        text("""INSERT INTO deliveries (id, tenant, digest, event_id, target, webhook_id, place, sent_again, run_id)
                VALUES (:id, :tenant, :digest, :event, :target, :webhook, CAST(:place AS jsonb), :sent_again, :run)"""),
        {
            "id": delivery,
            "tenant": event.tenant,
            "digest": digest,
            "event": event.id,
            "target": target,
            "webhook": place.webhook_id,
            "place": json.dumps(place.place),
            "sent_again": sent_again,
            "run": run,
        },
    )
    return delivery
