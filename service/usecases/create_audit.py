"""Accept an audit: check what files can tell, then write audit and runs in one transaction."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.ledger import audits, demand
from service.ledger.ids import new_id
from service.ledger.prompt_sets import load_prompt_set, store_prompt_set
from service.ledger.settle import settle_audit
from service.ledger.specs import compare_spec, spec_digest, trace_spec
from service.ledger.tables import AuditRecord
from service.ledger.unit_of_work import Ledger
from service.settings import Settings
from service.usecases.models import resolve_model
from spinal.canonical import digest_of
from spinal.checkpoint import Checkpoint, check_pair, snapshot_digest
from spinal.errors import IdempotencyInFlight, IdempotencyKeyReused
from spinal.profile import MeasurementProfile
from spinal.prompts import BUILTIN_SETS, PromptSet, builtin_prompts

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class AuditRequest:
    """What a caller asks, as accepted."""

    candidate: str
    reference: str | None
    prompt_set: str
    profile: MeasurementProfile
    control: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    """What the caller sent, without defaults: a repeated request is the same one under a later release, too."""
    spelled_out: dict[str, Any] = field(default_factory=dict)
    """The same with every default of this release: what the first release told requests apart by."""


@dataclass(frozen=True)
class Resolved:
    """What the request was resolved to."""

    candidate: Checkpoint
    reference: Checkpoint | None
    control: Checkpoint | None
    prompts: PromptSet
    specs: dict[str, dict[str, Any]]
    """Run specifications by role: candidate, and with a reference: reference, compare, and control where named."""
    summary: dict[str, Any]


@dataclass(frozen=True)
class Accepted:
    audit_id: UUID
    status: int
    """202, or 201 when every result existed."""


def resolve_request(ledger: Ledger, settings: Settings, tenant: str, request: AuditRequest) -> Resolved:
    """Check everything that a second can tell; raises the errors of checkpoints, prompts and pairs."""
    candidate = resolve_model(ledger, settings, tenant, request.candidate)
    reference = control = None
    if request.reference is not None:
        reference = resolve_model(ledger, settings, tenant, request.reference)
        check_pair(reference, candidate)
        if request.control is not None:
            control = resolve_model(ledger, settings, tenant, request.control)
            check_pair(reference, control)
    prompts = _prompts(ledger, request.prompt_set)
    specs = {"candidate": _trace(candidate, prompts, request.profile)}
    if reference is not None:
        specs["reference"] = _trace(reference, prompts, request.profile)
        if control is not None:
            specs["control"] = _trace(control, prompts, request.profile)
        specs["compare"] = compare_spec(
            reference=specs["reference"],
            candidate=specs["candidate"],
            control=specs.get("control"),
            profile=request.profile,
        )
    summary = {
        "candidate": _described(candidate, specs["candidate"]),
        "reference": _described(reference, specs["reference"]) if reference is not None else None,
        "control": _described(control, specs["control"]) if control is not None else None,
        "prompt_set": {"digest": prompts.digest, "name": prompts.name, "count": len(prompts)},
        "fingerprint": request.profile.fingerprint,
        "comparison_fingerprint": request.profile.comparison_fingerprint,
    }
    return Resolved(candidate, reference, control, prompts, specs, summary)


def _prompts(ledger: Ledger, named: str) -> PromptSet:
    if named in BUILTIN_SETS:
        return builtin_prompts(named)
    with ledger.read() as session:
        return load_prompt_set(session, named)


def _trace(checkpoint: Checkpoint, prompts: PromptSet, profile: MeasurementProfile) -> dict[str, Any]:
    return trace_spec(
        model=checkpoint.source, snapshot=snapshot_digest(checkpoint), prompt_set=prompts.digest, profile=profile
    )


def _described(checkpoint: Checkpoint, spec: dict[str, Any]) -> dict[str, Any]:
    shape = checkpoint.base or checkpoint
    return {
        "source": checkpoint.source,
        "snapshot": spec["snapshot"],
        "architecture": shape.architecture,
        "n_layers": shape.n_layers,
        "hidden_size": shape.hidden_size,
        "vocab_size": shape.vocab_size,
        "adapter": checkpoint.base is not None,
    }


def cached_roles(ledger: Ledger, resolved: Resolved) -> dict[str, bool]:
    """Which of the needed results exist already, by role."""
    with ledger.read() as session:
        return {
            role: session.execute(
                text("SELECT 1 FROM runs WHERE spec_digest = :d AND state = 'SUCCEEDED' AND NOT cancel_requested"),
                {"d": spec_digest(spec)},
            ).scalar()
            is not None
            for role, spec in resolved.specs.items()
        }


def create_audit(
    ledger: Ledger,
    settings: Settings,
    *,
    tenant: str,
    request: AuditRequest,
    idempotency_key: str | None,
    request_id: str | None,
    traceparent: str | None,
) -> Accepted:
    """Accept an audit, or replay the answer once given under the same Idempotency-Key.

    Raises IdempotencyKeyReused, IdempotencyInFlight and everything :func:`resolve_request` raises.
    """
    digests = (digest_of(request.body), digest_of(request.spelled_out))
    if idempotency_key is not None:
        replay = _replay(ledger, tenant, idempotency_key, digests)
        if replay is not None:
            return replay
    resolved = resolve_request(ledger, settings, tenant, request)
    audit = _record(tenant, request, resolved, request_id)
    with ledger.begin() as session:
        if idempotency_key is None:
            accepted = _write(session, settings, audit, resolved, request.priority, traceparent)
        else:
            if not audits.lock_idempotency_key(session, tenant, idempotency_key):
                raise _in_flight()
            replay = _stored_answer(session, tenant, idempotency_key, digests)
            if replay is not None:
                return replay
            accepted = _write(session, settings, audit, resolved, request.priority, traceparent)
            answer = (digests[0], audit.id, accepted.status)
            if not audits.remember_idempotent(session, tenant, idempotency_key, *answer):
                raise _in_flight()
    log.info("audit accepted", audit_id=str(audit.id), tenant=tenant, status=accepted.status)
    return accepted


def _in_flight() -> IdempotencyInFlight:
    return IdempotencyInFlight(
        "a request with this Idempotency-Key is being carried out", hint="send it again in a second"
    )


def _replay(ledger: Ledger, tenant: str, key: str, digests: tuple[str, str]) -> Accepted | None:
    with ledger.read() as session:
        return _stored_answer(session, tenant, key, digests)


def _stored_answer(session: Session, tenant: str, key: str, digests: tuple[str, str]) -> Accepted | None:
    stored = audits.find_idempotent(session, tenant, key)
    if stored is None:
        return None
    if stored.body_digest not in digests:
        raise IdempotencyKeyReused(
            "this Idempotency-Key was used with another body", hint="use a fresh key for every new request"
        )
    return Accepted(stored.audit_id, stored.status)


def _record(tenant: str, request: AuditRequest, resolved: Resolved, request_id: str | None) -> AuditRecord:
    return AuditRecord(
        id=new_id(),
        tenant=tenant,
        candidate=request.candidate,
        reference=request.reference,
        control=request.control,
        request=request.body,
        spec=resolved.summary,
        labels=request.labels,
        priority=request.priority,
        state="QUEUED",
        request_id=request_id,
    )


def _write(
    session: Session,
    settings: Settings,
    audit: AuditRecord,
    resolved: Resolved,
    priority: int,
    traceparent: str | None,
) -> Accepted:
    store_prompt_set(session, resolved.prompts)
    needed = demand.need_runs(
        session, resolved.specs, queue=settings.trace_queue, priority=priority, traceparent=traceparent
    )
    audits.insert_audit(session, audit, needed)
    settle_audit(session, audit.id)
    session.expire(audit)
    done = audit.state == "SUCCEEDED"
    return Accepted(audit.id, 201 if done else 202)
