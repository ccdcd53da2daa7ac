"""Webhooks and their deliveries: insert, read, change. Runs are locked ahead of webhooks."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.runs.kinds import LOCK_ORDER
from service.runs.wake import wake_dispatchers

FAILING_FOR_S = 5 * 86_400.0
"""A webhook of which nothing was taken for so long, although it was tried, is disabled. Longer than the schedule of one
delivery, which ends after some three days: one event that a receiver cannot take disables nothing."""
DELETED = "the webhook was deleted"
SHOWN_TRIES = 20


@dataclass(frozen=True)
class Webhook:
    """Its members are columns of ``webhooks``, by the same names."""

    id: UUID
    tenant: str
    url: str
    description: str | None
    events: list[str]
    filters: dict[str, Any]
    signature: str
    generation: int
    former_until: datetime | None
    disabled_at: datetime | None
    disabled_why: str | None
    failing_since: datetime | None
    created_at: datetime
    former_signs: bool = False
    """Whether the secret of the generation before signs, too, at this moment."""


@dataclass(frozen=True)
class Told:
    """One delivery as its tenant is shown it."""

    id: UUID
    event_id: UUID
    type: str
    subject_kind: str
    subject: UUID
    state: str
    sent_again: int
    created_at: datetime
    next_attempt_at: datetime | None
    error: dict[str, Any] | None
    finished_at: datetime | None
    disabled_why: str | None
    """Of its webhook."""
    tries: list[dict[str, Any]]
    """The newest ones, oldest first: attempt, tried_at, took_ms, ok, status, detail."""


COLUMNS = ", ".join(member.name for member in fields(Webhook) if member.name != "former_signs")
SHOWN = f"{COLUMNS}, (former_until > now()) IS TRUE AS former_signs"


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(**row._asdict())


def insert_webhook(session: Session, webhook: UUID, tenant: str, members: dict[str, Any], *, most: int) -> bool:
    """False where the tenant has ``most`` already. Those that come at once are counted one after the other."""
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('spinal webhooks ' || :tenant, 0))"), {"tenant": tenant}
    )
    made = session.execute(
        text("""INSERT INTO webhooks (id, tenant, url, description, events, filters, signature)
                SELECT :id, :tenant, :url, :description, CAST(:events AS jsonb), CAST(:filters AS jsonb), :signature
                WHERE (SELECT count(*) FROM webhooks WHERE tenant = :tenant AND deleted_at IS NULL) < :most
                RETURNING id"""),
        {
            "id": webhook,
            "tenant": tenant,
            "most": most,
            "url": members["url"],
            "description": members.get("description"),
            "events": json.dumps(members["events"]),
            "filters": json.dumps(members.get("filters", {})),
            "signature": members.get("signature", "v1"),
        },
    ).scalar()
    return made is not None


def find_webhook(session: Session, tenant: str, webhook: UUID) -> Webhook | None:
    """The tenant's webhook; another tenant's does not exist, nor does one that was deleted."""
    row = session.execute(
        text(f"SELECT {SHOWN} FROM webhooks WHERE id = :id AND tenant = :tenant AND deleted_at IS NULL"),  # noqa: S608  a constant of this module
        {"id": webhook, "tenant": tenant},
    ).one_or_none()
    return None if row is None else _webhook(row)


Key = tuple[datetime, UUID] | None
"""(created_at, id) of the last row of the page before."""


def listing(after: Key) -> str:
    """SQL: webhooks of a tenant, those behind ``after``."""
    following = "" if after is None else "AND (created_at, id) < (:after, :after_id)"
    return f"""SELECT {SHOWN} FROM webhooks WHERE tenant = :tenant AND deleted_at IS NULL {following}
        ORDER BY created_at DESC, id DESC LIMIT :limit"""  # noqa: S608  constants of this module


def _bound(after: Key) -> dict[str, Any]:
    return {} if after is None else {"after": after[0], "after_id": after[1]}


def list_webhooks(session: Session, tenant: str, *, after: Key = None, limit: int) -> list[Webhook]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    rows = session.execute(text(listing(after)), {"tenant": tenant, "limit": limit} | _bound(after))
    return [_webhook(row) for row in rows]


def listening(session: Session, tenant: str) -> list[Webhook]:
    """Those that are told of something, in a stable order."""
    rows = session.execute(
        text(f"""SELECT {SHOWN} FROM webhooks WHERE tenant = :tenant AND deleted_at IS NULL AND disabled_at IS NULL
                 ORDER BY id"""),  # noqa: S608  a constant of this module
        {"tenant": tenant},
    )
    return [_webhook(row) for row in rows]


def change_webhook(session: Session, tenant: str, webhook: UUID, members: dict[str, Any]) -> bool:
    """Give columns other values; False where there is no such webhook. What is due to it goes where it leads then."""
    values = {name: json.dumps(value) if name in JSONS else value for name, value in members.items()}
    changed = session.execute(text(changing(members)), values | {"id": webhook, "tenant": tenant}).scalar()
    return changed is not None


JSONS = ("events", "filters")


def changing(columns: Collection[str]) -> str:
    """SQL: give a webhook other values in some columns."""
    named = [f"{name} = CAST(:{name} AS jsonb)" if name in JSONS else f"{name} = :{name}" for name in sorted(columns)]
    return f"""UPDATE webhooks SET {", ".join([*named, "version = version + 1"])}
        WHERE id = :id AND tenant = :tenant AND deleted_at IS NULL RETURNING id"""  # noqa: S608  names of columns


def rotate_secret(
    session: Session, tenant: str, webhook: UUID, *, overlap_s: float, generation: int | None = None
) -> bool:
    """The next secret from now on, and the present one beside it for ``overlap_s``; one from before that no more.
    False where ``generation`` is not the present one."""
    changed = session.execute(
        text("""UPDATE webhooks SET generation = generation + 1, version = version + 1, rotated_at = now(),
                  former_until = now() + make_interval(secs => :overlap)
                WHERE id = :id AND tenant = :tenant AND deleted_at IS NULL
                  AND (CAST(:generation AS int) IS NULL OR generation = :generation) RETURNING id"""),
        {"id": webhook, "tenant": tenant, "overlap": overlap_s, "generation": generation},
    ).scalar()
    return changed is not None


def was_just_rotated(session: Session, tenant: str, webhook: UUID, generation: int, *, within_s: float) -> bool:
    """Whether the secret of that generation was replaced last, and not longer ago."""
    found: bool = session.execute(
        text("""SELECT EXISTS (SELECT 1 FROM webhooks WHERE id = :id AND tenant = :tenant
                  AND generation = :generation + 1 AND rotated_at > now() - make_interval(secs => :within))"""),
        {"id": webhook, "tenant": tenant, "generation": generation, "within": within_s},
    ).scalar_one()
    return found


def disable_webhook(session: Session, webhook: UUID, why: str) -> None:
    """Nothing more is made for it. What waits for it already is ended by whoever takes it up, or by
    :func:`end_waiting`."""
    session.execute(
        text("""UPDATE webhooks SET disabled_at = now(), disabled_why = :why, version = version + 1
                WHERE id = :id AND disabled_at IS NULL"""),
        {"id": webhook, "why": why},
    )


def enable_webhook(session: Session, tenant: str, webhook: UUID) -> bool:
    """Once more from the beginning: what it failed before is forgotten."""
    changed = session.execute(
        text("""UPDATE webhooks SET disabled_at = NULL, disabled_why = NULL, failing_since = NULL, version = version + 1
                WHERE id = :id AND tenant = :tenant AND deleted_at IS NULL RETURNING id"""),
        {"id": webhook, "tenant": tenant},
    ).scalar()
    return changed is not None


def delete_webhook(session: Session, tenant: str, webhook: UUID) -> bool:
    """What it was called and where it led are forgotten; its deliveries keep whose they were."""
    changed = session.execute(
        text("""UPDATE webhooks SET deleted_at = now(), url = '', description = NULL, filters = '{}'::jsonb,
                  disabled_at = COALESCE(disabled_at, now()), disabled_why = :why, version = version + 1
                WHERE id = :id AND tenant = :tenant AND deleted_at IS NULL RETURNING id"""),
        {"id": webhook, "tenant": tenant, "why": DELETED},
    ).scalar()
    return changed is not None


def end_waiting(session: Session, webhook: UUID) -> int:
    """End the deliveries that wait for a webhook, uncharged; returns how many. One that is being made is not cut off.
    Ahead of locking the webhook."""
    rows = session.execute(
        text(f"""WITH held AS (SELECT id FROM runs WHERE state = 'QUEUED'
                   AND id IN (SELECT run_id FROM deliveries WHERE webhook_id = :webhook)
                   ORDER BY {LOCK_ORDER} FOR NO KEY UPDATE)
                 UPDATE runs SET cancel_requested = TRUE, state = 'CANCELLED', finished_at = now()
                 WHERE id IN (SELECT id FROM held) AND state = 'QUEUED' RETURNING id"""),  # noqa: S608  a constant of kinds.py
        {"webhook": webhook},
    )
    return len(rows.all())


def note_outcome(session: Session, webhook: UUID, *, ok: bool) -> float:
    """Keep since when nothing was taken; returns for how many seconds."""
    if ok:
        session.execute(
            text("UPDATE webhooks SET failing_since = NULL WHERE id = :id AND failing_since IS NOT NULL"),
            {"id": webhook},
        )
        return 0.0
    session.execute(
        text("UPDATE webhooks SET failing_since = now() WHERE id = :id AND failing_since IS NULL"), {"id": webhook}
    )
    since: float | None = session.execute(
        text("SELECT EXTRACT(epoch FROM now() - failing_since)::float8 FROM webhooks WHERE id = :id"), {"id": webhook}
    ).scalar()
    return since or 0.0


# deliveries

LOG = f"""SELECT d.id, d.event_id, e.type, e.subject_kind, e.subject, r.state, d.sent_again, d.created_at,
    CASE WHEN r.state = 'QUEUED' THEN GREATEST(r.not_before, d.created_at) END AS next_attempt_at,
    r.error, r.finished_at, w.disabled_why,
    COALESCE((SELECT jsonb_agg(to_jsonb(t) - 'delivery_id' ORDER BY t.attempt) FROM (
      SELECT * FROM delivery_tries WHERE delivery_id = d.id ORDER BY attempt DESC LIMIT {SHOWN_TRIES}) t),
      '[]'::jsonb) AS tries
  FROM deliveries d JOIN events e ON e.id = d.event_id JOIN runs r ON r.id = d.run_id
  JOIN webhooks w ON w.id = d.webhook_id
  WHERE d.webhook_id = :webhook AND d.tenant = :tenant"""  # noqa: S608  a constant of this module
"""SQL: deliveries of a webhook, each with what came of it."""


def log_of(after: Key) -> str:
    """SQL: a page of them, behind ``after``."""
    following = "" if after is None else "AND (d.created_at, d.id) < (:after, :after_id)"
    return f"{LOG} {following} ORDER BY d.created_at DESC, d.id DESC LIMIT :limit"


def list_deliveries(session: Session, tenant: str, webhook: UUID, *, after: Key, limit: int) -> list[Told]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    named = {"webhook": webhook, "tenant": tenant, "limit": limit}
    rows = session.execute(text(log_of(after)), named | _bound(after))
    return [Told(**row._asdict()) for row in rows]


def read_delivery(session: Session, tenant: str, webhook: UUID, delivery: UUID) -> Told | None:
    row = session.execute(
        text(f"{LOG} AND d.id = :delivery"), {"webhook": webhook, "tenant": tenant, "delivery": delivery}
    ).one_or_none()
    return None if row is None else Told(**row._asdict())


def hurry(session: Session, delivery: UUID) -> bool:
    """Have a delivery that waits tried at once; False where it does not wait."""
    run = session.execute(
        text("""UPDATE runs SET not_before = now(), rung_at = NULL
                WHERE id = (SELECT run_id FROM deliveries WHERE id = :delivery) AND state = 'QUEUED' RETURNING id"""),
        {"delivery": delivery},
    ).scalar()
    if run is not None:
        wake_dispatchers(session, UUID(str(run)))
    return run is not None


def sent_again(session: Session, webhook: UUID, event: UUID) -> tuple[int, UUID | None]:
    """How often an event was sent again to a webhook, and the delivery of it that has not ended. Who asks next waits
    for this transaction: the webhook is locked."""
    session.execute(text("SELECT 1 FROM webhooks WHERE id = :id FOR NO KEY UPDATE"), {"id": webhook})
    rows: Sequence[Row[Any]] = session.execute(
        text("""SELECT d.id, d.sent_again, r.state FROM deliveries d JOIN runs r ON r.id = d.run_id
                WHERE d.webhook_id = :webhook AND d.event_id = :event"""),
        {"webhook": webhook, "event": event},
    ).all()
    open_one = next((row.id for row in rows if row.state in ("QUEUED", "RUNNING")), None)
    return max((row.sent_again for row in rows), default=0), open_one
