"""What a report is written from: its document, and where its own links lead."""

from collections.abc import Callable
from uuid import UUID

from service.audits.verbs import read_result
from service.database.unit_of_work import Reads
from service.platform.links import Kind
from service.series.verbs import read_document
from spinal.report.formats.format import Reader
from spinal.report.reported import Reported


def reported(
    ledger: Reads, tenant: str, kind: Kind, subject: UUID, address: Callable[[Kind, UUID], str | None]
) -> tuple[Reported, Reader]:
    """The document of a report, with links to the reports of its members at ``address(kind, id)``. Raises
    AuditNotFound, AuditNotFinished, AuditFailed, SeriesNotFound."""
    if kind == "audit":
        return read_result(ledger, tenant, subject), Reader()
    document = read_document(ledger, tenant, subject)
    links = {
        f"step {member.step}": found
        for member in document.members
        if member.audit is not None and member.state == "measured"
        for found in [address("audit", UUID(str(member.audit)))]
        if found is not None
    }
    return document, Reader(links=links)
