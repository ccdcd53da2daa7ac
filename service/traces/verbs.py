"""Read traces and differences that the tenant's audits made."""

from dataclasses import dataclass

from service.database.unit_of_work import Reads
from service.runs.held import held_by_tenant
from service.traces import store
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
    """A trace that one of the tenant's audits refers to, with that audit's names; raises TraceNotFound."""
    with ledger.read() as session:
        held = held_by_tenant(session, tenant, digest)
        if held is None:
            raise TraceNotFound(f"no trace {digest}", hint="list traces with GET /v1/traces")
        return held.name_trace(store.load_trace(session, digest))


def read_diff(ledger: Reads, tenant: str, reference: str, candidate: str) -> DiffView:
    """Layer-wise differences of two such traces, with the stored comparison where there is one. A comparison that is
    read alone carries the verdict of today's default policy.

    Raises TraceNotFound, FingerprintMismatch, TracesNotComparable.
    """
    difference = diff_traces(read_trace(ledger, tenant, reference), read_trace(ledger, tenant, candidate))
    with ledger.read() as session:
        stored = store.stored_comparison(session, tenant, reference, candidate)
        if stored is None:
            return DiffView(difference, None)
        comparison = judged(Comparison.model_validate(stored))
        held = held_by_tenant(session, tenant, comparison.digest)
    return DiffView(difference, comparison if held is None else held.name_comparison(comparison))
