"""What may be deleted: captures that no open audit needs, answers kept under old Idempotency-Keys, old deliveries."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.operations.deleted import BATCH, allow_deleting, delete_deliveries
from service.runs.lifecycle import TERMINAL
from service.traces.store import StoredCapture

MOST = 1000
"""Keys in one transaction."""
OLD_DELIVERIES = """FROM deliveries d JOIN runs r ON r.id = d.run_id
    WHERE d.created_at < now() - make_interval(secs => :age)
      AND r.state = ANY(:ended) AND r.finished_at < now() - make_interval(secs => :age)"""
"""SQL: those that ended so long ago. What they told of an audit or a series stays: such events belong to these."""
TOLD_ALONE = ("version.refused", "webhook.test")
"""Types of events that are there for their deliveries alone, and go with the last of them."""
NEEDED = """traces.digest IN (SELECT r.result_digest FROM audits a
              JOIN audit_runs x ON x.audit_id = a.id JOIN runs r ON r.id = x.run_id
              WHERE a.state IN ('QUEUED','RUNNING') AND r.result_digest IS NOT NULL)"""
"""SQL: an open audit holds the trace, in whatever role. Open audits are few, those that have shared a trace many."""


def old_captures(session: Session, *, older_than_s: float) -> list[StoredCapture]:
    """Captures of traces stored longer ago than that, oldest first."""
    rows = session.execute(
        text(f"""SELECT digest, capture_uri, capture_bytes FROM traces
                 WHERE capture_uri IS NOT NULL AND created_at < now() - make_interval(secs => :age) AND NOT {NEEDED}
                 ORDER BY created_at"""),  # noqa: S608  a constant of this module
        {"age": older_than_s},
    )
    return [StoredCapture(row.digest, row.capture_uri, row.capture_bytes or 0) for row in rows]


def forget_capture(session: Session, capture: StoredCapture) -> bool:
    """The trace has no capture any more; False when an open audit has come to need it, or it has another by now."""
    forgotten = session.execute(
        text(f"""UPDATE traces SET capture_uri = NULL, capture_bytes = NULL, capture_sha256 = NULL
                 WHERE digest = :digest AND capture_uri = :uri AND NOT {NEEDED} RETURNING digest"""),  # noqa: S608  a constant of this module
        {"digest": capture.digest, "uri": capture.uri},
    ).scalar()
    return forgotten is not None


def unnamed_captures(session: Session, uris: Sequence[str]) -> list[str]:
    """Those of ``uris`` that no trace names as its capture."""
    rows = session.execute(
        text("""SELECT u.uri FROM unnest(CAST(:uris AS text[])) AS u(uri)
                WHERE NOT EXISTS (SELECT 1 FROM traces t WHERE t.capture_uri = u.uri)"""),
        {"uris": list(uris)},
    )
    return sorted(row.uri for row in rows)


def count_idempotency_keys(session: Session, *, older_than_s: float) -> int:
    """Of audits and of series."""
    found: int = session.execute(
        text("""SELECT (SELECT count(*) FROM idempotency_keys WHERE created_at < now() - make_interval(secs => :age))
                  + (SELECT count(*) FROM series WHERE idempotency_key IS NOT NULL
                     AND created_at < now() - make_interval(secs => :age))"""),
        {"age": older_than_s},
    ).scalar_one()
    return found


def delete_idempotency_keys(session: Session, *, older_than_s: float) -> int:
    """Some of them; 0 when there are none left. A request that is repeated with a deleted key is a new request."""
    some = {"age": older_than_s, "most": MOST}
    gone = session.execute(
        text("""DELETE FROM idempotency_keys WHERE (tenant, key) IN (
                  SELECT tenant, key FROM idempotency_keys WHERE created_at < now() - make_interval(secs => :age)
                  ORDER BY created_at LIMIT :most FOR UPDATE SKIP LOCKED) RETURNING key"""),
        some,
    )
    forgotten = session.execute(
        text("""UPDATE series SET idempotency_key = NULL, body_digest = NULL WHERE id IN (
                  SELECT id FROM series WHERE idempotency_key IS NOT NULL
                    AND created_at < now() - make_interval(secs => :age)
                  ORDER BY id LIMIT :most FOR NO KEY UPDATE SKIP LOCKED) RETURNING id"""),
        some,
    )
    return len(gone.all()) + len(forgotten.all())


def count_deliveries(session: Session, *, older_than_s: float) -> int:
    """Of all tenants, to webhooks and to registries."""
    found: int = session.execute(
        text(f"SELECT count(*) {OLD_DELIVERIES}"),
        {"age": older_than_s, "ended": sorted(TERMINAL)},
    ).scalar_one()
    return found


def delete_old_deliveries(session: Session, *, older_than_s: float) -> int:
    """Some of one tenant, with the log of their tries, their runs, and events that were there for them alone; 0 when
    there are none left."""
    oldest = session.execute(
        text(f"SELECT d.id, d.tenant, d.event_id {OLD_DELIVERIES} ORDER BY d.id LIMIT :most"),
        {"age": older_than_s, "ended": sorted(TERMINAL), "most": BATCH},
    ).all()
    if not oldest:
        _delete_events(session, _events_of_nobody(session, older_than_s))
        return 0
    tenant = oldest[0].tenant
    allow_deleting(session, tenant)
    deleted = delete_deliveries(session, [row.id for row in oldest if row.tenant == tenant])["deliveries"]
    _delete_events(session, [row.event_id for row in oldest if row.tenant == tenant])
    return deleted


def _events_of_nobody(session: Session, older_than_s: float) -> list[UUID]:
    """Some old events whose deliveries went before events went with them."""
    rows = session.execute(
        text("""SELECT id FROM events e WHERE type = ANY(:types)
                  AND created_at < now() - make_interval(secs => :age)
                  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id) ORDER BY seq LIMIT :most"""),
        {"types": list(TOLD_ALONE), "age": older_than_s, "most": MOST},
    )
    return list(rows.scalars())


def _delete_events(session: Session, events: Sequence[UUID]) -> None:
    """Those of ``events`` that are there for deliveries alone and have none any more."""
    # One that somebody is sending again at this moment is held by its new delivery. What is held here is looked at by a
    # statement of its own, which sees what was committed until then.
    held = session.execute(
        text("""SELECT id FROM events WHERE id = ANY(:events) AND type = ANY(:types)
                ORDER BY id FOR UPDATE SKIP LOCKED"""),
        {"events": list(events), "types": list(TOLD_ALONE)},
    )
    session.execute(
        text("""DELETE FROM events e WHERE id = ANY(:events)
                  AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_id = e.id)"""),
        {"events": list(held.scalars())},
    )
