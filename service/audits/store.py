"""Audits: insert, read, list, cancel."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, or_, select, text, tuple_
from sqlalchemy.orm import Session

from service.database.tables import AuditRecord, AuditRunRecord, RunRecord
from service.runs.demand import cancel_runs_of, lock_runs_of
from service.runs.settle import HELD, HOLDERS, HOLDS


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


@dataclass(frozen=True)
class NeededRun:
    """What an audit shows of a run that it needs."""

    id: UUID
    kind: str
    state: str
    attempt: int
    progress: dict[str, Any] | None
    result: str | None
    """Digest of what was made. Also None when it was made after the audit had been cancelled or had failed."""


def runs_of(session: Session, audit_ids: Sequence[UUID]) -> dict[UUID, dict[str, NeededRun]]:
    """Audit -> its runs by role."""
    rows = session.execute(
        select(
            AuditRunRecord.audit_id,
            AuditRunRecord.role,
            RunRecord.id,
            RunRecord.kind,
            RunRecord.state,
            RunRecord.attempt,
            RunRecord.progress,
            case((text(HOLDS), RunRecord.result_digest)).label("result"),
        )
        .join(RunRecord, RunRecord.id == AuditRunRecord.run_id)
        .join(AuditRecord, AuditRecord.id == AuditRunRecord.audit_id)
        .where(AuditRunRecord.audit_id.in_(audit_ids))
    )
    found: dict[UUID, dict[str, NeededRun]] = {audit_id: {} for audit_id in audit_ids}
    for row in rows:
        found[row.audit_id][row.role] = NeededRun(row.id, row.kind, row.state, row.attempt, row.progress, row.result)
    return found


def verdicts_in_comparisons(session: Session, digests: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Comparison -> the verdict that it carries: where audits that the release before settled have theirs."""
    rows = session.execute(
        text("SELECT digest, document->'verdict' AS verdict FROM comparisons WHERE digest = ANY(:digests)"),
        {"digests": list(digests)},
    )
    return {row.digest: row.verdict for row in rows if row.verdict is not None}


def has_result(session: Session, tenant: str, spec_digest: str) -> bool:
    """Whether one of the tenant's audits holds the result of that specification."""
    return (
        session.execute(
            text(f"""SELECT 1 FROM {HOLDERS} WHERE runs.spec_digest = :digest AND runs.state = 'SUCCEEDED'
                       AND NOT runs.cancel_requested AND {HELD} LIMIT 1"""),  # noqa: S608  constants of settle.py
            {"digest": spec_digest, "tenant": tenant},
        ).scalar()
        is not None
    )


def list_audits(
    session: Session, tenant: str, narrowed: AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[AuditRecord]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    query = select(AuditRecord).where(AuditRecord.tenant == tenant, *_conditions(narrowed))
    if after is not None:
        created, last = after
        # A comparison of rows goes straight to its place in the index; the same said with OR reads all before it.
        query = query.where(tuple_(AuditRecord.created_at, AuditRecord.id) < (created, last))
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
