"""Audits: insert, read, list, cancel."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, or_, select, text
from sqlalchemy.orm import Session

from service.database.tables import AuditRecord, AuditRunRecord, RunRecord
from service.runs.demand import cancel_runs_of, lock_runs_of


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
    return True
