"""Audits: insert, read, list, cancel."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.listing import bound
from service.runs.demand import cancel_runs_of, lock_runs_of
from service.runs.settle import HELD, HOLDERS, HOLDS
from service.runs.wake import tell_waiters
from spinal.documents.comparison import RuleOutcome, Verdict


@dataclass(frozen=True)
class NewAudit:
    """What is known of an audit when it is accepted."""

    id: UUID
    tenant: str
    candidate: str
    reference: str | None = None
    control: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    request_id: str | None = None
    policy: str | None = None
    """Digest of the policy that its verdict is made by."""
    former: UUID | None = None
    """The audit that rules on values of a former one read."""
    series: UUID | None = None
    """The series of which it is a member."""


@dataclass(frozen=True)
class NeededRun:
    """What an audit shows of a run that it needs."""

    state: str
    attempt: int
    progress: dict[str, Any] | None
    result: str | None
    """Digest of what was made. Also None when it was made after the audit had been cancelled or had failed."""


@dataclass(frozen=True)
class Audit:
    """What callers are shown of an audit. Its members are columns of ``audits``, by the same names."""

    id: UUID
    state: str
    candidate: str
    reference: str | None
    control: str | None
    spec: dict[str, Any]
    labels: dict[str, str]
    priority: int
    verdict: str | None
    verdict_document: dict[str, Any] | None
    former: UUID | None
    series: UUID | None
    error: dict[str, Any] | None
    candidate_trace: str | None
    reference_trace: str | None
    control_trace: str | None
    comparison: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    runs: dict[str, NeededRun]
    """By role."""


RUNS = f"""(SELECT jsonb_object_agg(x.role, jsonb_build_array(runs.state, runs.attempt, runs.progress,
    CASE WHEN {HOLDS} THEN runs.result_digest END))
  FROM audit_runs x JOIN runs ON runs.id = x.run_id WHERE x.audit_id = audits.id)"""  # noqa: S608  a constant of settle.py
"""SQL: the runs of an audit by role, each the members of a NeededRun: a second statement would be another way to the
database and back."""
COLUMNS = ", ".join(member.name for member in fields(Audit) if member.name != "runs")
SHOWN = f"{COLUMNS}, {RUNS} AS runs"
"""SQL: the members of an audit."""


def insert_audit(session: Session, audit: NewAudit, runs: dict[str, UUID]) -> None:
    """Insert an audit, queued, and the runs it needs, by role."""
    session.execute(
        text("""INSERT INTO audits (id, tenant, candidate, reference, control, request, spec, labels, priority,
                  request_id, policy, former, series)
                VALUES (:id, :tenant, :candidate, :reference, :control, CAST(:request AS jsonb), CAST(:spec AS jsonb),
                  CAST(:labels AS jsonb), :priority, :request_id, :policy, :former, :series)"""),
        {
            "id": audit.id,
            "tenant": audit.tenant,
            "candidate": audit.candidate,
            "reference": audit.reference,
            "control": audit.control,
            "request": json.dumps(audit.request),
            "spec": json.dumps(audit.spec),
            "labels": json.dumps(audit.labels),
            "priority": audit.priority,
            "request_id": audit.request_id,
            "policy": audit.policy,
            "former": audit.former,
            "series": audit.series,
        },
    )
    session.execute(
        text("INSERT INTO audit_runs (audit_id, role, run_id) VALUES (:audit, :role, :run)"),
        [{"audit": audit.id, "role": role, "run": run} for role, run in runs.items()],
    )


def find_audit(session: Session, tenant: str, audit_id: UUID) -> Audit | None:
    """The tenant's audit; another tenant's does not exist."""
    row = session.execute(
        text(f"SELECT {SHOWN} FROM audits WHERE id = :id AND tenant = :tenant"),  # noqa: S608  a constant of this module
        {"id": audit_id, "tenant": tenant},
    ).one_or_none()
    return None if row is None else _audit(row)


def _audit(row: Row[Any]) -> Audit:
    members = row._asdict()
    return Audit(**members | {"runs": {role: NeededRun(*run) for role, run in (row.runs or {}).items()}})


def verdicts_in_comparisons(session: Session, digests: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Comparison -> the verdict that it carries: where audits that the release before settled have theirs."""
    rows = session.execute(
        text("SELECT digest, document->'verdict' AS verdict FROM comparisons WHERE digest = ANY(:digests)"),
        {"digests": list(digests)},
    )
    return {row.digest: row.verdict for row in rows if row.verdict is not None}


def read_verdict(document: dict[str, Any]) -> Verdict:
    """A stored verdict, without members that newer code has given it."""

    def known(members: dict[str, Any], of: type[BaseModel]) -> dict[str, Any]:
        return {name: value for name, value in members.items() if name in of.model_fields}

    rules = [known(rule, RuleOutcome) for rule in document.get("rules", ())]
    return Verdict.model_validate(known(document, Verdict) | {"rules": rules})


NAME_LABEL = "name"
"""Audits that have the same label of this name are versions of one model."""


def find_former(session: Session, tenant: str, labels: dict[str, str], spec: dict[str, Any]) -> UUID | None:
    """The newest audit that a new one with these labels comes after: of the same name, against the same reference, on
    the same prompts under the same profile, with a comparison that was not judged to fail, and of another candidate:
    the same content sent again would differ in nothing from itself. None where there is none, or no name."""
    if NAME_LABEL not in labels or spec.get("reference") is None:
        return None
    found: UUID | None = session.execute(
        text("""SELECT id FROM audits
                WHERE tenant = :tenant AND labels->>'name' = :name AND state = 'SUCCEEDED' AND comparison IS NOT NULL
                  AND verdict IS DISTINCT FROM 'fail' AND spec->'prompt_set'->>'digest' = :prompts
                  AND spec->>'comparison_fingerprint' = :fingerprint
                  AND spec->'candidate'->>'snapshot' IS DISTINCT FROM :candidate
                  AND spec->'reference'->>'snapshot' = :reference
                  -- One that ended while this transaction goes on did not come before what it writes.
                  AND finished_at <= now()
                ORDER BY created_at DESC, id DESC LIMIT 1"""),
        {
            "tenant": tenant,
            "name": labels[NAME_LABEL],
            "prompts": spec["prompt_set"]["digest"],
            "fingerprint": spec["comparison_fingerprint"],
            "candidate": spec["candidate"]["snapshot"],
            "reference": spec["reference"]["snapshot"],
        },
    ).scalar()
    return found


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


@dataclass(frozen=True)
class AuditFilter:
    """What a listing is narrowed to; None leaves a member out."""

    state: str | None = None
    verdict: str | None = None
    policy: str | None = None
    """Name and version, or digest, of the policy that its verdict is made by."""
    model: str | None = None
    """Candidate or reference, as requested."""
    series: UUID | None = None
    labels: tuple[tuple[str, str], ...] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None


CONDITIONS = {
    "state": "state = :state",
    "verdict": "verdict = :verdict",
    "policy": """policy = (SELECT digest FROM policies
        WHERE policies.tenant = :tenant AND (policies.name = :policy OR policies.digest = :policy)
        ORDER BY created_at DESC LIMIT 1)""",
    "series": "series = :series",
    "labels": "labels @> CAST(:labels AS jsonb)",
    "created_after": "created_at > :created_after",
    "created_before": "created_at < :created_before",
    # A comparison of rows goes straight to its place in the index; the same said with OR reads all before it.
    "after": "(created_at, id) < (:after, :after_id)",
}
"""SQL: what a listing may be narrowed by, beside the model."""
SIDES_OF_MODEL = ("candidate = :model", "reference = :model AND candidate <> :model")
"""SQL: an audit names the model as its candidate, or else as its reference. Each has an index in the order of the list,
which the two in one condition have not."""


def listing(by: Collection[str]) -> str:
    """SQL: audits of a tenant, narrowed by some of ``CONDITIONS`` and "model". What is not asked is not mentioned: a
    plan for every combination would read every audit."""
    asked = "".join(f" AND {condition}" for name, condition in CONDITIONS.items() if name in by)
    if "model" not in by:
        return _newest(SHOWN, f"audits WHERE tenant = :tenant{asked}")
    sides = (_newest(COLUMNS, f"audits WHERE tenant = :tenant AND {side}{asked}") for side in SIDES_OF_MODEL)
    return _newest(SHOWN, f"(({') UNION ALL ('.join(sides)})) AS audits")


def _newest(members: str, which: str) -> str:
    return f"SELECT {members} FROM {which} ORDER BY created_at DESC, id DESC LIMIT :limit"  # noqa: S608  constants of this module


def list_audits(
    session: Session, tenant: str, narrowed: AuditFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> list[Audit]:
    """Newest first; ``after`` is the (created_at, id) of the last one seen."""
    by = bound(narrowed, after)
    rows = session.execute(text(listing(by)), {"tenant": tenant, "limit": limit} | by)
    return [_audit(row) for row in rows]


def cancel_audit(session: Session, tenant: str, audit_id: UUID) -> bool:
    """QUEUED | RUNNING -> CANCELLED; False when there was nothing left to cancel."""
    lock_runs_of(session, audit_id)
    cancelled = session.execute(
        text("""UPDATE audits SET state = 'CANCELLED', finished_at = now(), version = version + 1
                WHERE id = :id AND tenant = :tenant AND state IN ('QUEUED','RUNNING') RETURNING series"""),
        {"id": audit_id, "tenant": tenant},
    ).one_or_none()
    if cancelled is None:
        return False
    tell_waiters(session, audit_id, cancelled.series)
    cancel_runs_of(session, audit_id)
    return True
