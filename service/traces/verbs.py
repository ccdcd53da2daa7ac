"""Read traces and differences that the tenant's audits made."""

from dataclasses import dataclass
from typing import Any

from service.database.unit_of_work import Reads
from service.traces import store
from service.traces.store import load_trace_document
from spinal.analysis.diff import diff_traces
from spinal.documents.comparison import Comparison
from spinal.documents.diff import TraceDiff
from spinal.documents.trace import Trace
from spinal.errors import TraceNotFound
from spinal.policy.decide import judged


@dataclass(frozen=True)
class DiffView:
    diff: TraceDiff
    comparison: Comparison | None


def read_trace(ledger: Reads, tenant: str, digest: str) -> Trace:
    """A trace that one of the tenant's audits refers to; raises TraceNotFound."""
    return Trace.model_validate(_document(ledger, tenant, digest))


def read_diff(ledger: Reads, tenant: str, reference: str, candidate: str) -> DiffView:
    """Layer-wise differences of two such traces, with the stored comparison where there is one. A comparison that is
    read alone carries the verdict of today's default policy.

    Raises TraceNotFound, FingerprintMismatch, TracesNotComparable.
    """
    difference = diff_traces(read_trace(ledger, tenant, reference), read_trace(ledger, tenant, candidate))
    with ledger.read() as session:
        stored = store.stored_comparison(session, tenant, reference, candidate)
    return DiffView(difference, None if stored is None else judged(Comparison.model_validate(stored)))


def _document(ledger: Reads, tenant: str, digest: str) -> dict[str, Any]:
    with ledger.read() as session:
        if not store.tenant_has_trace(session, tenant, digest):
            raise TraceNotFound(f"no trace {digest}", hint="list traces with GET /v1/traces")
        return load_trace_document(session, digest)
