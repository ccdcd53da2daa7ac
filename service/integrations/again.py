"""Tells a registry once more of what it did not take while there were tries: a poll that worked shows that it answers.

For webhooks their tenants do this; nobody else would for a registry.
"""

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.deliveries.events import find_event
from service.deliveries.outbox import add_delivery
from service.deliveries.targets import Place
from service.integrations.store import NEWEST
from service.registries import Registry
from service.settings import Settings
from spinal.errors import Unauthorized

log = structlog.get_logger(__name__)
PAUSE_S = 3600.0
"""Behind a failure, at least: what failed with the last poll may fail still."""
MOST = 100
"""Deliveries behind one poll."""
# Only of the audit, or the refusal, that a version is still said to be: an older one has nothing to say any more. What
# failed as in vain (the version is gone) is left alone.
FAILED = f"""SELECT d.event_id, d.place, d.sent_again FROM deliveries d
  JOIN runs r ON r.id = d.run_id JOIN events e ON e.id = d.event_id
  JOIN LATERAL ({NEWEST.format(place="d.place->>'registry', d.place->>'model', d.place->>'version', d.tenant")}) newest
    ON e.subject = COALESCE(newest.audit_id, newest.id)
  WHERE d.tenant = :tenant AND d.target = :target AND d.place->>'registry' = :registry
    AND r.state = 'FAILED' AND r.finished_at < now() - make_interval(secs => :pause)
    AND r.error->>'final' IS DISTINCT FROM 'true'
    AND NOT EXISTS (SELECT 1 FROM deliveries o JOIN runs s ON s.id = o.run_id
      WHERE o.event_id = d.event_id AND o.target = d.target AND o.place = d.place
        AND (o.sent_again > d.sent_again OR s.state IN ('QUEUED','RUNNING')))
  ORDER BY r.finished_at LIMIT :most FOR NO KEY UPDATE OF d SKIP LOCKED"""  # noqa: S608  a constant of store.py
"""SQL: the newest sendings to a registry that have failed, those that failed first, first."""


def tell_again(ledger: Ledger, settings: Settings, name: str, registry: Registry) -> int:
    """Make some deliveries once more that a registry never took; returns how many."""
    if not registry.write_back:
        return 0
    try:
        with ledger.begin() as session:
            made = _make(session, settings, name, registry)
    except Unauthorized:
        # Its tenant is being deleted: nobody is told of it any more.
        return 0
    if made:
        log.info("told a registry again what it had not taken", registry=name, deliveries=made)
    return made


def _make(session: Session, settings: Settings, name: str, registry: Registry) -> int:
    of = {"tenant": registry.tenant, "target": registry.kind, "registry": name, "pause": PAUSE_S, "most": MOST}
    made = 0
    for row in session.execute(text(FAILED), of).all():
        event = find_event(session, row.event_id)
        if event is not None:
            add_delivery(session, settings, event, registry.kind, Place(place=row.place), sent_again=row.sent_again + 1)
            made += 1
    return made
