"""What callers do with audits: submit, read, read the result, cancel. Each opens the transactions it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from service.audits import idempotency, store
from service.audits.resolve import AuditRequest, Resolved, resolve_request
from service.audits.store import Audit, NewAudit
from service.database.ids import new_id
from service.database.unit_of_work import Ledger, Reads, whole_or_again
from service.policies.store import hold_policy
from service.policies.verbs import not_found
from service.prompt_sets.store import keep_prompt_set
from service.runs import demand
from service.runs.held import held_by_audit, without_hosts
from service.runs.lifecycle import IN_FLIGHT, State
from service.runs.settle import settle_audit
from service.runs.standing import Standing, find_standing
from service.settings import Settings
from service.tenants.counts import keep_within, open_within, require_room
from service.traces.files import files_of
from service.traces.store import load_comparison_document, load_trace_document
from spinal.checkpoints.bounded import Inspectors
from spinal.documents.comparison import Comparison, Verdict
from spinal.documents.files import FileDigests
from spinal.documents.trace import Trace
from spinal.errors import (
    AuditFailed,
    AuditHasNoScores,
    AuditNotFinished,
    AuditNotFound,
    IdempotencyInFlight,
    IdempotencyKeyReused,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Accepted:
    audit_id: UUID
    status: int
    """202, or 201 when every result existed."""


def create_audit(
    ledger: Ledger,
    settings: Settings,
    inspectors: Inspectors,
    *,
    tenant: str,
    request: AuditRequest,
    idempotency_key: str | None,
    request_id: str | None,
    traceparent: str | None,
) -> Accepted:
    """Accept an audit, or replay the answer once given under the same Idempotency-Key.

    Raises IdempotencyKeyReused, IdempotencyInFlight, OpenAuditLimitReached, IdempotencyKeyLimitReached and everything
    :func:`resolve_request` raises. What is replayed, and what ends at once since every result exists, no limit refuses.
    """
    asked = idempotency.body_digests(request.body, request.spelled_out)
    if idempotency_key is not None:
        replay = _replay(ledger, tenant, idempotency_key, asked)
        if replay is not None:
            return replay
    resolved = resolve_request(ledger, settings, inspectors, tenant, request)
    audit = record_of(tenant, request, resolved, request_id)
    with ledger.begin() as session, whole_or_again():
        if idempotency_key is None:
            accepted = write_audit(session, settings, audit, resolved, request.priority, traceparent)
        else:
            if not idempotency.lock_idempotency_key(session, tenant, idempotency_key):
                raise _in_flight()
            replay = _stored_answer(session, tenant, idempotency_key, asked)
            if replay is not None:
                return replay
            accepted = write_audit(session, settings, audit, resolved, request.priority, traceparent)
            answer = (asked, audit.id, accepted.status)
            if not idempotency.remember_idempotent(session, tenant, idempotency_key, *answer):
                raise _in_flight()
            keep_within(session, settings, tenant)
    log.info("audit accepted", audit_id=str(audit.id), tenant=tenant, status=accepted.status)
    return accepted


def _in_flight() -> IdempotencyInFlight:
    return IdempotencyInFlight(
        "a request with this Idempotency-Key is being carried out", hint="send it again in a second"
    )


def _replay(ledger: Ledger, tenant: str, key: str, asked: idempotency.BodyDigests) -> Accepted | None:
    with ledger.read() as session:
        return _stored_answer(session, tenant, key, asked)


def _stored_answer(session: Session, tenant: str, key: str, asked: idempotency.BodyDigests) -> Accepted | None:
    stored = idempotency.find_idempotent(session, tenant, key)
    if stored is None:
        return None
    if not stored.is_to(asked):
        raise IdempotencyKeyReused(
            "this Idempotency-Key was used with another body", hint="use a fresh key for every new request"
        )
    return Accepted(stored.audit_id, stored.status)


def record_of(
    tenant: str, request: AuditRequest, resolved: Resolved, request_id: str | None, *, series: UUID | None = None
) -> NewAudit:
    """The audit that a request asks for, under a fresh id; ``series`` where it is a member of one."""
    return NewAudit(
        id=new_id(),
        tenant=tenant,
        candidate=request.models["candidate"],
        reference=request.models.get("reference"),
        control=request.models.get("control"),
        request=request.body,
        spec=resolved.summary,
        labels=request.labels,
        priority=request.priority,
        request_id=request_id,
        policy=None if resolved.policy is None else resolved.policy.digest,
        series=series,
    )


def write_audit(
    session: Session,
    settings: Settings,
    audit: NewAudit,
    resolved: Resolved,
    priority: int,
    traceparent: str | None,
) -> Accepted:
    """Insert an audit with the runs that it needs, shared with whoever needs the same; raises PolicyNotFound where its
    policy was deleted meanwhile, OpenAuditLimitReached where its tenant has as many open audits as it may."""
    most = settings.limits_of(audit.tenant).open_audits
    keep_prompt_set(session, audit.tenant, resolved.prompts)
    if resolved.policy is not None and not hold_policy(session, audit.tenant, resolved.policy):
        raise not_found(resolved.policy.name)
    former = store.find_former(session, audit.tenant, audit.labels, resolved.summary)
    needed = demand.known_runs(session, resolved.expected, settings.owner_of_work(audit.tenant))
    if needed is None:
        if not demand.are_done(session, resolved.specs):
            # Before others' runs are locked for what is to be refused.
            require_room(session, audit.tenant, most)
        needed = demand.need_runs(
            session,
            resolved.specs,
            queue_of=lambda kind: kind.queue(settings),
            priority=priority,
            traceparent=traceparent,
            tenant=audit.tenant,
        )
    store.insert_audit(session, replace(audit, former=former), needed)
    done = settle_audit(session, audit.id) is State.SUCCEEDED
    if not done:
        open_within(session, audit.tenant, most)
    return Accepted(audit.id, 201 if done else 202)


@dataclass(frozen=True, eq=False)
class AuditView:
    """An audit, and its verdict once there is one."""

    audit: Audit
    verdict: Verdict | None
    standing: Standing | None = None
    """Where it stands in the queue, where that was asked for."""


@dataclass(frozen=True)
class AuditsPage:
    """Some of a tenant's audits, newest first, and where the next ones begin."""

    views: list[AuditView]
    following: tuple[datetime, UUID] | None


def read_audit(ledger: Reads, tenant: str, audit_id: UUID) -> AuditView:
    """The tenant's audit; raises AuditNotFound."""
    with ledger.read() as session:
        audit = store.find_audit(session, tenant, audit_id)
        if audit is None:
            raise AuditNotFound(f"no audit {audit_id}", hint="list them with GET /v1/audits")
        [view] = _views(session, [audit])
        return view


def with_standing(ledger: Reads, view: AuditView) -> AuditView:
    """The same with where the audit stands, while it is in flight."""
    if view.audit.state not in IN_FLIGHT:
        return view
    with ledger.read() as session:
        return replace(view, standing=find_standing(session, view.audit.id))


def list_audits(
    ledger: Reads, tenant: str, narrowed: store.AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> AuditsPage:
    """The tenant's audits that match, newest first, behind the one with the sort key ``after``."""
    with ledger.read() as session:
        found = store.list_audits(session, tenant, narrowed, after=after, limit=limit + 1)
        page = found[:limit]
        following = (page[-1].created_at, page[-1].id) if len(found) > limit else None
        return AuditsPage(_views(session, page), following)


def _views(session: Session, audits: list[Audit]) -> list[AuditView]:
    """The audits with their verdicts: one statement for those that the release before settled, where there are any."""
    elsewhere = [a.comparison for a in audits if a.verdict_document is None and a.verdict is not None and a.comparison]
    carried = store.verdicts_in_comparisons(session, elsewhere) if elsewhere else {}
    verdicts = (audit.verdict_document or carried.get(audit.comparison or "") for audit in audits)
    return [
        AuditView(audit, None if verdict is None else store.read_verdict(verdict))
        for audit, verdict in zip(audits, verdicts, strict=True)
    ]


def read_result(ledger: Reads, tenant: str, audit_id: UUID, *, layers: bool = True) -> Comparison | Trace:
    """What the audit found: its comparison with the audit's verdict, without layers where these are not needed, or its
    trace when it has no reference.

    Raises AuditNotFound, AuditNotFinished, AuditFailed.
    """
    view = read_audit(ledger, tenant, audit_id)
    _require_success(view.audit)
    with ledger.read() as session:
        if view.audit.comparison is None:
            trace = Trace.model_validate(load_trace_document(session, view.audit.candidate_trace or ""))
            held = held_by_audit(session, audit_id, "candidate")
            return trace if held is None else held.name_trace(trace)
        stored = Comparison.model_validate(load_comparison_document(session, view.audit.comparison, layers=layers))
        held = held_by_audit(session, audit_id, "compare")
    comparison = stored if view.verdict is None else Comparison.of(stored, view.verdict)
    return comparison if held is None else held.name_comparison(comparison)


def read_files(ledger: Reads, weights: Mapping[str, str]) -> dict[str, FileDigests]:
    """The files behind weights digests, by role, as far as they are known."""
    with ledger.read() as session:
        found = {role: files_of(session, digest) for role, digest in weights.items()}
    return {role: files for role, files in found.items() if files is not None}


def read_scores(ledger: Reads, tenant: str, audit_id: UUID) -> Comparison:
    """The audit's comparison without its layers; additionally raises AuditHasNoScores for an audit without a
    reference."""
    found = read_result(ledger, tenant, audit_id, layers=False)
    if isinstance(found, Trace):
        raise AuditHasNoScores(
            f"audit {audit_id} has no reference to compare with", hint="submit it with a reference checkpoint"
        )
    return found


def _require_success(audit: Audit) -> None:
    if audit.state in IN_FLIGHT:
        raise AuditNotFinished(
            f"audit {audit.id} is {audit.state}", hint="wait with GET /v1/audits/{id}?wait=30", state=audit.state
        )
    if audit.state != "SUCCEEDED":
        why = without_hosts((audit.error or {}).get("detail", "no result was made"))
        raise AuditFailed(
            f"audit {audit.id} is {audit.state}: {why}",
            hint="read its error with GET /v1/audits/{id}",
            state=audit.state,
        )


def cancel_audit(ledger: Ledger, tenant: str, audit_id: UUID) -> AuditView:
    """End an audit that is queued or running; one that has ended is left as it is. Raises AuditNotFound."""
    read_audit(ledger, tenant, audit_id)
    with ledger.begin() as session:
        store.cancel_audit(session, tenant, audit_id)
    return read_audit(ledger, tenant, audit_id)
