"""Audits: insert, read, list, cancel."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select, text
from sqlalchemy.orm import Session

from service.ledger.demand import cancel_runs_of, lock_runs_of
from service.ledger.settle import notify
from service.ledger.tables import AuditRecord, AuditRunRecord, RunRecord


@dataclass(frozen=True)
class AuditFilter:
    """What a listing is narrowed to; None leaves a member out."""

    state: str | None = None
    verdict: str | None = None
    model: str | None = None
    """Candidate or reference, as requested."""
    labels: tuple[tuple[str, str], ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None


def insert_audit(session: Session, audit: AuditRecord, runs: dict[str, UUID]) -> None:
    """Insert an audit and the runs it needs, by role."""
    session.add(audit)
    session.flush()
    session.add_all(AuditRunRecord(audit_id=audit.id, role=role, run_id=run_id) for role, run_id in runs.items())
    session.flush()


def find_audit(session: Session, tenant: str, audit_id: UUID) -> AuditRecord | None:
    """The tenant's audit; another tenant's does not exist."""
    return session.scalars(
        select(AuditRecord).where(AuditRecord.id == audit_id, AuditRecord.tenant == tenant)
    ).one_or_none()


def runs_of(session: Session, audit_id: UUID) -> dict[str, RunRecord]:
    """Runs of an audit by role."""
    rows = session.execute(
        select(AuditRunRecord.role, RunRecord)
        .join(RunRecord, RunRecord.id == AuditRunRecord.run_id)
        .where(AuditRunRecord.audit_id == audit_id)
    )
    return {row.role: row.RunRecord for row in rows}


def list_audits(
    session: Session, tenant: str, narrowed: AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[AuditRecord]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    query = select(AuditRecord).where(AuditRecord.tenant == tenant, *_conditions(narrowed))
    if after is not None:
        created, last = after
        query = query.where(
            or_(AuditRecord.created_at < created, and_(AuditRecord.created_at == created, AuditRecord.id < last))
        )
    return list(session.scalars(query.order_by(AuditRecord.created_at.desc(), AuditRecord.id.desc()).limit(limit)))


def _conditions(narrowed: AuditFilter) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if narrowed.state is not None:
        found.append(AuditRecord.state == narrowed.state)
    if narrowed.verdict is not None:
        found.append(AuditRecord.verdict == narrowed.verdict)
    if narrowed.model is not None:
        found.append(or_(AuditRecord.candidate == narrowed.model, AuditRecord.reference == narrowed.model))
    if narrowed.labels:
        found.append(AuditRecord.labels.contains(dict(narrowed.labels)))
    if narrowed.created_after is not None:
        found.append(AuditRecord.created_at > narrowed.created_after)
    if narrowed.created_before is not None:
        found.append(AuditRecord.created_at < narrowed.created_before)
    return found


def cancel_audit(session: Session, tenant: str, audit_id: UUID) -> bool:
    """QUEUED | RUNNING -> CANCELLED; False when there was nothing left to cancel."""
    lock_runs_of(session, audit_id)
    cancelled = session.execute(
        text("""UPDATE audits SET state = 'CANCELLED', finished_at = now(), version = version + 1
                WHERE id = :id AND tenant = :tenant AND state IN ('QUEUED','RUNNING') RETURNING id"""),
        {"id": audit_id, "tenant": tenant},
    ).scalar()
    if cancelled is None:
        return False
    cancel_runs_of(session, audit_id)
    notify(session, "spinal_audits", str(audit_id))
    return True


def tenant_has_trace(session: Session, tenant: str, digest: str) -> bool:
    """Whether one of the tenant's audits refers to the trace: that is what makes it readable."""
    return (
        session.execute(
            text("""SELECT 1 FROM audits WHERE tenant = :tenant
                    AND (candidate_trace = :digest OR reference_trace = :digest OR control_trace = :digest) LIMIT 1"""),
            {"tenant": tenant, "digest": digest},
        ).scalar()
        is not None
    )


def list_traces(
    session: Session, tenant: str, *, weights: str | None, after: tuple[datetime, str] | None, limit: int
) -> list[Any]:
    """Heads of the traces that the tenant's audits refer to, newest first."""
    return list(
        session.execute(
            text("""SELECT digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source, n_layers,
                      created_at FROM traces t
                    WHERE EXISTS (SELECT 1 FROM audits a WHERE a.tenant = :tenant
                                  AND t.digest IN (a.candidate_trace, a.reference_trace, a.control_trace))
                      AND (CAST(:weights AS text) IS NULL OR weights_digest = :weights)
                      AND (CAST(:created AS timestamptz) IS NULL OR (created_at, digest) < (:created, :last))
                    ORDER BY created_at DESC, digest DESC LIMIT :limit"""),
            {
                "tenant": tenant,
                "weights": weights,
                "created": after[0] if after else None,
                "last": after[1] if after else None,
                "limit": limit,
            },
        ).all()
    )


def stored_comparison(session: Session, tenant: str, reference: str, candidate: str) -> dict[str, Any] | None:
    """The newest comparison document of two traces that one of the tenant's audits made."""
    found: dict[str, Any] | None = session.execute(
        text("""SELECT c.document FROM comparisons c JOIN audits a ON a.comparison = c.digest
                WHERE a.tenant = :tenant AND c.reference_digest = :reference AND c.candidate_digest = :candidate
                ORDER BY c.created_at DESC LIMIT 1"""),
        {"tenant": tenant, "reference": reference, "candidate": candidate},
    ).scalar()
    return found


def find_idempotent(session: Session, tenant: str, key: str) -> Any:
    """(body_digest, audit_id, status) stored under an Idempotency-Key, or None."""
    return session.execute(
        text("SELECT body_digest, audit_id, status FROM idempotency_keys WHERE tenant = :t AND key = :k"),
        {"t": tenant, "k": key},
    ).one_or_none()


def lock_idempotency_key(session: Session, tenant: str, key: str) -> bool:
    """Hold the key until the transaction ends, ahead of every other lock; False when another transaction holds it."""
    held: bool = session.execute(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:tenant || chr(10) || :key, 0))"),
        {"tenant": tenant, "key": key},
    ).scalar_one()
    return held


def remember_idempotent(session: Session, tenant: str, key: str, body_digest: str, audit_id: UUID, status: int) -> bool:
    """Store the answer given under a key, whose lock the caller holds; False when code from before that lock stored one
    first."""
    return (
        session.execute(
            text("""INSERT INTO idempotency_keys (tenant, key, body_digest, audit_id, status)
                    VALUES (:t, :k, :body, :audit, :status) ON CONFLICT DO NOTHING RETURNING key"""),
            {"t": tenant, "k": key, "body": body_digest, "audit": audit_id, "status": status},
        ).scalar()
        is not None
    )
