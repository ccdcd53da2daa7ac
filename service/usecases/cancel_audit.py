"""Cancel an audit; what other audits need goes on."""

from uuid import UUID

from service.ledger import audits
from service.ledger.unit_of_work import Ledger
from service.usecases.read_audit import AuditView, read_audit


def cancel_audit(ledger: Ledger, tenant: str, audit_id: UUID) -> AuditView:
    """End an audit that is queued or running; one that has ended is left as it is. Raises AuditNotFound."""
    read_audit(ledger, tenant, audit_id)
    with ledger.begin() as session:
        audits.cancel_audit(session, tenant, audit_id)
    return read_audit(ledger, tenant, audit_id)
