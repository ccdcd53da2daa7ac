"""Series and their members: insert, read, list, close. Locks: a series before runs, and runs before audits."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.listing import bound


@dataclass(frozen=True)
class Covered:
    """What a document knows of its series. Members are only ever added, end once, and a series closes once: two
    documents of one series that cover the same are the same, and one that covers less is older."""

    members: int
    settled: int
    closed: bool


@dataclass(frozen=True)
class NewSeries:
    """What is known of a series when it is accepted."""

    id: UUID
    tenant: str
    reference: str
    policy: str
    """Digest of the policy."""
    spec: dict[str, Any]
    description: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    idempotency_key: str | None = None
    body_digest: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Series:
    """A series without its document. Its members are columns of ``series``, by the same names, and ``SUMMARY``."""

    id: UUID
    tenant: str
    description: str | None
    reference: str
    policy: str
    spec: dict[str, Any]
    settings: dict[str, Any]
    labels: dict[str, str]
    closed_at: datetime | None
    cancelled_at: datetime | None
    covers_members: int
    covers_settled: int
    covers_closed: bool
    created_at: datetime
    summary: dict[str, Any] | None
    """What a list tells of the document that was worked out last (``SUMMARY``); None where there is none yet."""
    states: dict[str, int]
    """How many members are in which state of an audit."""

    @property
    def now(self) -> Covered:
        """What a document made now would cover."""
        going = sum(self.states.get(state, 0) for state in ("QUEUED", "RUNNING"))
        total = sum(self.states.values())
        return Covered(total, total - going, self.closed_at is not None)

    @property
    def current(self) -> bool:
        """Whether the document that is kept knows all of it."""
        kept = Covered(self.covers_members, self.covers_settled, self.covers_closed)
        return self.summary is not None and kept == self.now


COLUMNS = ", ".join(member.name for member in fields(Series) if member.name not in ("summary", "states"))
SUMMARY = (
    "status", "onset_step", "worse_from_step", "first_alarm_step", "first_warning_step", "alarmed", "warned", "reasons",
)  # fmt: skip
"""What a list tells of a document."""
STATES = """COALESCE((SELECT jsonb_object_agg(s.state, s.n) FROM (
    SELECT a.state, count(*) AS n FROM series_members m JOIN audits a ON a.id = m.audit_id
    WHERE m.series_id = series.id GROUP BY a.state) AS s), '{}'::jsonb)"""
"""SQL: the members of a series by the state of their audits."""
SUMMARISED = f"""CASE WHEN document IS NOT NULL THEN jsonb_build_object({
    ", ".join(f"'{name}', document->'{name}'" for name in SUMMARY)
}) END"""
SHOWN = f"{COLUMNS}, {SUMMARISED} AS summary, {STATES} AS states"
"""SQL: the members of a Series."""


def insert_series(session: Session, series: NewSeries) -> None:
    """Insert a series without members."""
    session.execute(
        text("""INSERT INTO series (id, tenant, description, reference, policy, spec, settings, labels,
                  idempotency_key, body_digest, request_id)
                VALUES (:id, :tenant, :description, :reference, :policy, CAST(:spec AS jsonb),
                  CAST(:settings AS jsonb), CAST(:labels AS jsonb), :idempotency_key, :body_digest, :request_id)"""),
        {
            "id": series.id,
            "tenant": series.tenant,
            "description": series.description,
            "reference": series.reference,
            "policy": series.policy,
            "spec": json.dumps(series.spec),
            "settings": json.dumps(series.settings),
            "labels": json.dumps(series.labels),
            "idempotency_key": series.idempotency_key,
            "body_digest": series.body_digest,
            "request_id": series.request_id,
        },
    )


def find_idempotent(session: Session, tenant: str, key: str) -> Row[Any] | None:
    """``id`` and ``body_digest`` of the series that was made under an Idempotency-Key."""
    return session.execute(
        text("SELECT id, body_digest FROM series WHERE tenant = :tenant AND idempotency_key = :key"),
        {"tenant": tenant, "key": key},
    ).one_or_none()


def find_series(session: Session, tenant: str, series_id: UUID) -> Series | None:
    """The tenant's series; another tenant's does not exist."""
    row = session.execute(
        text(f"SELECT {SHOWN} FROM series WHERE id = :id AND tenant = :tenant"),  # noqa: S608  constants of this module
        {"id": series_id, "tenant": tenant},
    ).one_or_none()
    return None if row is None else Series(**row._asdict())


def kept_document(session: Session, series_id: UUID) -> dict[str, Any] | None:
    """The document that was worked out last."""
    found: dict[str, Any] | None = session.execute(
        text("SELECT document FROM series WHERE id = :id"), {"id": series_id}
    ).scalar()
    return found


@dataclass(frozen=True)
class SeriesFilter:
    """What a listing is narrowed to; None leaves a member out."""

    status: str | None = None
    reference: str | None = None
    """As requested."""
    closed: bool | None = None
    labels: tuple[tuple[str, str], ...] = ()


CONDITIONS = {
    "status": "status = :status",
    "reference": "reference = :reference",
    "closed": "(closed_at IS NOT NULL) = :closed",
    "labels": "labels @> CAST(:labels AS jsonb)",
    "after": "(created_at, id) < (:after, :after_id)",
}
"""SQL: what a listing may be narrowed by."""


def listing(by: Collection[str]) -> str:
    """SQL: series of a tenant, narrowed by some of ``CONDITIONS``. What is not asked is not mentioned."""
    asked = "".join(f" AND {condition}" for name, condition in CONDITIONS.items() if name in by)
    return f"SELECT {SHOWN} FROM series WHERE tenant = :tenant{asked} ORDER BY created_at DESC, id DESC LIMIT :limit"  # noqa: S608  constants of this module


def list_series(
    session: Session, tenant: str, narrowed: SeriesFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Series]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    by = bound(narrowed, after)
    rows = session.execute(text(listing(by)), {"tenant": tenant, "limit": limit} | by)
    return [Series(**row._asdict()) for row in rows]


def lock_series(session: Session, tenant: str, series_id: UUID) -> bool:
    """Hold the series until the transaction ends, ahead of runs and audits: members come one after another. Whether it
    is still open."""
    open_: bool = session.execute(
        text("SELECT closed_at IS NULL FROM series WHERE id = :id AND tenant = :tenant FOR NO KEY UPDATE"),
        {"id": series_id, "tenant": tenant},
    ).scalar_one()
    return open_


def close_series(session: Session, tenant: str, series_id: UUID, *, cancel: bool = False) -> None:
    """No member comes from here on, and with ``cancel`` those that are going are given up. The first time counts."""
    session.execute(
        text("""UPDATE series SET closed_at = COALESCE(closed_at, now()),
                  cancelled_at = CASE WHEN :cancel THEN COALESCE(cancelled_at, now()) ELSE cancelled_at END
                WHERE id = :id AND tenant = :tenant
                  AND (closed_at IS NULL OR (:cancel AND cancelled_at IS NULL))"""),
        {"id": series_id, "tenant": tenant, "cancel": cancel},
    )


@dataclass(frozen=True)
class StoredMember:
    """A member as it is listed."""

    step: int
    model: str
    audit_id: UUID
    state: str
    """Of its audit."""


def insert_member(session: Session, series_id: UUID, step: int, model: str, audit_id: UUID) -> None:
    """Insert a member, whose step the caller, who holds the series, found free."""
    session.execute(
        text("INSERT INTO series_members (series_id, step, model, audit_id) VALUES (:series, :step, :model, :audit)"),
        {"series": series_id, "step": step, "model": model, "audit": audit_id},
    )


def list_members(session: Session, series_id: UUID) -> list[StoredMember]:
    """All members by step."""
    rows = session.execute(
        text("""SELECT m.step, m.model, m.audit_id, a.state FROM series_members m JOIN audits a ON a.id = m.audit_id
                WHERE m.series_id = :series ORDER BY m.step"""),
        {"series": series_id},
    )
    return [StoredMember(*row) for row in rows]


def find_member(session: Session, series_id: UUID, step: int) -> StoredMember | None:
    """The member at a step."""
    row = session.execute(
        text("""SELECT m.step, m.model, m.audit_id, a.state FROM series_members m JOIN audits a ON a.id = m.audit_id
                WHERE m.series_id = :series AND m.step = :step"""),
        {"series": series_id, "step": step},
    ).one_or_none()
    return None if row is None else StoredMember(*row)


def next_in_line(session: Session, series_id: UUID) -> UUID | None:
    """The audit of the first member that is queued, or else that is running; None where none is going."""
    found: UUID | None = session.execute(
        text("""SELECT a.id FROM series_members m JOIN audits a ON a.id = m.audit_id
                WHERE m.series_id = :series AND a.state IN ('QUEUED','RUNNING')
                ORDER BY a.state = 'QUEUED' DESC, m.step LIMIT 1"""),
        {"series": series_id},
    ).scalar()
    return found


def count_members(session: Session, series_id: UUID) -> int:
    found: int = session.execute(
        text("SELECT count(*) FROM series_members WHERE series_id = :series"), {"series": series_id}
    ).scalar_one()
    return found


def members_with_results(session: Session, series_id: UUID) -> list[Row[Any]]:
    """All members by step, each with the state, verdict and error of its audit and the comparison without its layers:
    one statement, so that all of it is of one moment."""
    rows = session.execute(
        text("""SELECT m.step, m.model, m.audit_id, a.state, a.verdict_document, a.error,
                  jsonb_set(c.document, '{layers}', '[]') AS document, c.later
                FROM series_members m JOIN audits a ON a.id = m.audit_id
                LEFT JOIN comparisons c ON c.digest = a.comparison AND a.state = 'SUCCEEDED'
                WHERE m.series_id = :series ORDER BY m.step"""),
        {"series": series_id},
    )
    return list(rows.all())


def stale_series(session: Session) -> list[tuple[UUID, str]]:
    """(id, tenant) of series whose document does not know all that has happened, the one longest without first."""
    rows = session.execute(
        text("""SELECT series.id, series.tenant FROM series
                LEFT JOIN LATERAL (SELECT count(*) AS members,
                    count(*) FILTER (WHERE a.state NOT IN ('QUEUED','RUNNING')) AS settled
                  FROM series_members m JOIN audits a ON a.id = m.audit_id WHERE m.series_id = series.id) AS n ON TRUE
                WHERE (document IS NULL OR NOT covers_closed OR covers_settled < covers_members)
                  AND (document IS NULL OR (covers_members, covers_settled, covers_closed)
                    IS DISTINCT FROM (n.members, n.settled, closed_at IS NOT NULL))
                ORDER BY series.id""")
    )
    return [(row.id, row.tenant) for row in rows]


def keep_document(session: Session, series_id: UUID, document: dict[str, Any], covered: Covered) -> bool:
    """Keep a document unless one is kept that knows as much; False when one is. Whoever comes late with an older one
    changes nothing."""
    kept = session.execute(
        text("""UPDATE series SET document = CAST(:document AS jsonb), status = :status, covers_members = :members,
                  covers_settled = :settled, covers_closed = :closed
                WHERE id = :id AND covers_members <= :members AND covers_settled <= :settled
                  AND covers_closed <= :closed AND (document IS NULL
                    OR (covers_members, covers_settled, covers_closed) IS DISTINCT FROM (:members, :settled, :closed))
                RETURNING id"""),
        {
            "id": series_id,
            "document": json.dumps(document),
            "status": document["status"],
            "members": covered.members,
            "settled": covered.settled,
            "closed": covered.closed,
        },
    ).scalar()
    return kept is not None
