"""Read an audit with everything that belongs to it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service.ledger import audits
from service.ledger.tables import AuditRecord, RunRecord
from service.ledger.traces import load_comparison_document, load_trace_document
from service.ledger.unit_of_work import Ledger
from spinal.comparison import Comparison
from spinal.errors import AuditFailed, AuditHasNoScores, AuditNotFinished, AuditNotFound
from spinal.trace import Trace


@dataclass(frozen=True, eq=False)
class AuditView:
    """An audit, its runs by role, and the verdict's reasons once there are any."""

    audit: AuditRecord
    runs: dict[str, RunRecord]
    verdict_reasons: tuple[str, ...]


def read_audit(ledger: Ledger, tenant: str, audit_id: UUID) -> AuditView:
    """The tenant's audit; raises AuditNotFound."""
    with ledger.read() as session:
        audit = audits.find_audit(session, tenant, audit_id)
        if audit is None:
            raise AuditNotFound(f"no audit {audit_id}", hint="list them with GET /v1/audits")
        reasons: tuple[str, ...] = ()
        if audit.comparison is not None:
            document = load_comparison_document(session, audit.comparison) or {}
            reasons = tuple(document.get("verdict", {}).get("reasons", ()))
        return AuditView(audit, audits.runs_of(session, audit_id), reasons)


def read_result(ledger: Ledger, tenant: str, audit_id: UUID) -> Comparison | Trace:
    """What the audit found: its comparison, or its trace when it has no reference.

    Raises AuditNotFound, AuditNotFinished, AuditFailed.
    """
    view = read_audit(ledger, tenant, audit_id)
    _require_success(view.audit)
    with ledger.read() as session:
        if view.audit.comparison is not None:
            document: dict[str, Any] | None = load_comparison_document(session, view.audit.comparison)
            return Comparison.model_validate(document)
        return Trace.model_validate(load_trace_document(session, view.audit.candidate_trace or ""))


def read_comparison(ledger: Ledger, tenant: str, audit_id: UUID) -> Comparison:
    """The audit's comparison; additionally raises AuditHasNoScores for an audit without a reference."""
    found = read_result(ledger, tenant, audit_id)
    if isinstance(found, Trace):
        raise AuditHasNoScores(
            f"audit {audit_id} has no reference to compare with", hint="submit it with a reference checkpoint"
        )
    return found


def _require_success(audit: AuditRecord) -> None:
    if audit.state in ("QUEUED", "RUNNING"):
        raise AuditNotFinished(
            f"audit {audit.id} is {audit.state}", hint="wait with GET /v1/audits/{id}?wait=30", state=audit.state
        )
    if audit.state != "SUCCEEDED":
        raise AuditFailed(
            f"audit {audit.id} is {audit.state}: {(audit.error or {}).get('detail', 'no result was made')}",
            hint="read its error with GET /v1/audits/{id}",
            state=audit.state,
        )
