"""What callers do with attestations: ask for one, and list those that were given out."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service.attestations import store
from service.attestations.store import Attestation
from service.audits.store import Audit
from service.audits.verbs import read_audit
from service.database.unit_of_work import Ledger, Reads
from service.operations.own_store import installation_id
from service.runs.lifecycle import IN_FLIGHT
from service.settings import Settings
from service.traces.files import files_of
from spinal.attestations.envelope import sealed
from spinal.attestations.keys import Signer
from spinal.attestations.statement import PREDICATES, Audited, statement_of
from spinal.documents.comparison import Verdict
from spinal.documents.files import FileDigests
from spinal.errors import AuditNotFinished, NotAttestable, NoVerdict
from spinal.text import rfc3339

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Stated:
    """What is said of an audit, and not signed yet."""

    audit_id: UUID
    predicate_type: str
    statement: dict[str, Any]


def state(ledger: Reads, tenant: str, settings: Settings, audit_id: UUID, predicate: str) -> Stated:
    """The statement, which follows from the audit alone. Raises AuditNotFound, AuditNotFinished, NoVerdict,
    NotAttestable, VerdictNotPass, PassRestsOnWaiver."""
    view = read_audit(ledger, tenant, audit_id)
    audit, verdict = view.audit, view.verdict
    if audit.state in IN_FLIGHT:
        raise AuditNotFinished(
            f"audit {audit_id} is {audit.state}", hint="wait with GET /v1/audits/{id}?wait=30", state=audit.state
        )
    if audit.state == "CANCELLED":
        raise NotAttestable(f"audit {audit_id} was cancelled: nothing was judged", hint="submit it again")
    if audit.reference is None:
        raise NoVerdict(
            f"audit {audit_id} has no reference, and so no verdict to attest", hint="submit it with a reference"
        )
    audited = _audited(ledger, settings, audit, verdict if audit.state == "SUCCEEDED" else None)
    return Stated(audit_id, PREDICATES[predicate], statement_of(audited, predicate))


def find(ledger: Reads, tenant: str, stated: Stated, key_id: str) -> Attestation | None:
    """What was given out before under that key."""
    with ledger.read() as session:
        return store.find_attestation(session, tenant, stated.audit_id, stated.predicate_type, key_id)


def sign(stated: Stated, signer: Signer) -> dict[str, Any]:
    """The envelope. Nothing is open in the database meanwhile: a key server may take its time. Raises
    AttestationKeyFailed."""
    return sealed(stated.statement, signer)


def keep(ledger: Ledger, tenant: str, stated: Stated, key_id: str, envelope: dict[str, Any]) -> Attestation:
    """What is given out from now on: this one, or that which somebody else has signed meanwhile. Raises
    AuditNotFound where the audit is gone."""
    read_audit(ledger, tenant, stated.audit_id)
    with ledger.begin() as session:
        store.keep_attestation(
            session,
            tenant,
            stated.audit_id,
            stated.predicate_type,
            key_id,
            statement=stated.statement,
            envelope=envelope,
        )
        found = store.find_attestation(session, tenant, stated.audit_id, stated.predicate_type, key_id)
    if found is None:
        raise NotAttestable("the audit's attestation belongs to somebody else", hint="tell an operator: spinal doctor")
    return found


def list_given(ledger: Reads, tenant: str, audit_id: UUID) -> list[Attestation]:
    """Those that were given out of the tenant's audit. Raises AuditNotFound."""
    read_audit(ledger, tenant, audit_id)
    with ledger.read() as session:
        return store.list_attestations(session, tenant, audit_id)


def _audited(ledger: Reads, settings: Settings, audit: Audit, verdict: Verdict | None) -> Audited:
    run = audit.runs.get("candidate")
    trace = audit.candidate_trace or (None if run is None else run.result)
    with ledger.read() as session:
        weights = None if trace is None else store.weights_of_trace(session, trace)
        files = None if weights is None else files_of(session, weights)
        own = installation_id(session)
    if weights is None or audit.finished_at is None:
        raise NotAttestable(
            f"audit {audit.id} failed before the candidate was measured: there are no files to speak of",
            hint="read its error with GET /v1/audits/{id}",
        )
    if files is None:
        raise NotAttestable(
            "the candidate was measured by a release that kept no digests of its single files",
            hint="submit the audit again once its files are read again (docs/attestations.md)",
        )
    return Audited(
        audit=str(audit.id),
        finished_at=rfc3339(audit.finished_at),
        verifier=f"urn:uuid:{own}",
        candidate=audit.spec.get("candidate", {}).get("source", audit.candidate),
        files=_whole(files, weights),
        verdict=verdict,
        error=None if audit.error is None else str(audit.error.get("code")),
        digests=_digests(audit, verdict, weights),
        # Not a link that expires: the statement does not change.
        url=_report(settings, audit) if audit.state == "SUCCEEDED" else None,
        signed_by=audit.spec.get("candidate", {}).get("signed_by"),
    )


def _whole(files: FileDigests, weights: str) -> FileDigests:
    if files.weights_digest != weights:
        raise NotAttestable("other files are kept than those of the trace", hint="tell an operator: spinal doctor")
    return files


def _digests(audit: Audit, verdict: Verdict | None, weights: str) -> dict[str, str]:
    spec = audit.spec
    told = {
        "candidate-weights": weights,
        "comparison": audit.comparison,
        "comparison-profile": spec.get("comparison_fingerprint"),
        "policy": (spec.get("policy") or {}).get("digest") if verdict is None else verdict.policy_digest,
        "profile": spec.get("fingerprint"),
        "prompt-set": (spec.get("prompt_set") or {}).get("digest"),
    }
    sides = {} if verdict is None else {f"{role}-weights": digest for role, digest in verdict.weights.items()}
    return {name: it for name, it in (sides | told).items() if isinstance(it, str) and SHA256.fullmatch(it)}


def _report(settings: Settings, audit: Audit) -> str | None:
    return None if settings.public_url is None else f"{settings.public_url}/v1/audits/{audit.id}/report?format=html"
