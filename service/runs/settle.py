"""Audits follow their runs, in the transaction that moved the run."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.runs.lifecycle import TERMINAL, State, audit_state
from spinal.documents.comparison import Comparison, Verdict
from spinal.documents.later import put_back
from spinal.policy.decide import POLICY, judged

UNREADABLE = "the comparison was written by newer code than that which settled the audit; submit it again"

HOLDS = """(audits.state NOT IN ('CANCELLED','FAILED') OR runs.finished_at <= audits.finished_at
  OR runs.result_digest IN
    (audits.candidate_trace, audits.reference_trace, audits.control_trace, audits.comparison))"""
"""SQL: an audit holds the result of a run that it needs. One that was cancelled or has failed holds what had been made
by then: nothing changes after its end."""
HOLDERS = "runs JOIN audit_runs x ON x.run_id = runs.id JOIN audits ON audits.id = x.audit_id"
HELD = f"audits.tenant = :tenant AND {HOLDS}"
"""SQL: results and the audits that hold them; those of one tenant."""


def settle(session: Session, run_ids: Sequence[UUID]) -> None:
    """Bring every open audit that needs one of the runs to the state its runs imply."""
    open_audits = session.execute(
        text("""SELECT id FROM audits WHERE state IN ('QUEUED','RUNNING')
                AND id IN (SELECT audit_id FROM audit_runs WHERE run_id = ANY(:runs))
                ORDER BY id FOR NO KEY UPDATE"""),
        {"runs": list(run_ids)},
    )
    verdicts: dict[str, dict[str, Any] | None] = {}
    for row in open_audits.all():
        settle_audit(session, row.id, verdicts)


def settle_audit(session: Session, audit_id: UUID, verdicts: dict[str, dict[str, Any] | None] | None = None) -> State:
    """Recompute one audit (whose row the caller holds) from its runs; returns its state. ``verdicts`` keeps those of
    comparisons that many audits wait for."""
    runs = session.execute(
        text("""SELECT role, state, result_digest, error FROM audit_runs JOIN runs ON runs.id = run_id
                WHERE audit_id = :audit ORDER BY role"""),
        {"audit": audit_id},
    ).all()
    state = audit_state([State(run.state) for run in runs])
    results = {run.role: run.result_digest for run in runs}
    error = _error(runs) if state is State.FAILED else None
    compared = results.get("compare") if state is State.SUCCEEDED else None
    known = {} if verdicts is None else verdicts
    if compared is not None and compared not in known:
        known[compared] = _verdict(session, compared)
    verdict = known[compared] if compared is not None else None
    session.execute(
        text("""UPDATE audits SET state = :state, version = version + 1,
                  candidate_trace = :candidate, reference_trace = :reference, control_trace = :control,
                  comparison = :comparison,
                  verdict = :verdict, verdict_document = CAST(:verdict_document AS jsonb),
                  error = CAST(:error AS jsonb),
                  started_at = CASE WHEN :state <> 'QUEUED' THEN COALESCE(started_at, now()) ELSE started_at END,
                  finished_at = CASE WHEN :terminal THEN now() END
                WHERE id = :audit AND (state, candidate_trace, reference_trace, control_trace, comparison)
                  IS DISTINCT FROM (:state, :candidate, :reference, :control, :comparison)"""),
        {
            "audit": audit_id,
            "state": state.value,
            "terminal": state in TERMINAL,
            "candidate": results.get("candidate"),
            "reference": results.get("reference"),
            "control": results.get("control"),
            "comparison": results.get("compare"),
            "verdict": verdict["outcome"] if verdict is not None else None,
            "verdict_document": json.dumps(verdict) if verdict is not None else None,
            "error": json.dumps(error) if error is not None else None,
        },
    )
    return state


def _verdict(session: Session, comparison: str) -> dict[str, Any] | None:
    """What today's default policy says of a stored comparison. One that this code cannot read, because newer code wrote
    it, keeps the verdict that it carries; where it carries none, nothing can be said."""
    stored = session.execute(
        text("SELECT document, later FROM comparisons WHERE digest = :comparison"), {"comparison": comparison}
    ).one_or_none()
    if stored is None:
        return None
    try:
        document = put_back(stored.document, stored.later)
        return judged(Comparison.model_validate(document)).verdict.model_dump(mode="json")
    except ValidationError:
        unreadable = Verdict(outcome="inconclusive", policy=POLICY, reasons=(UNREADABLE,))
        carried: dict[str, Any] = stored.document.get("verdict") or unreadable.model_dump(mode="json")
        return carried


def _error(runs: Sequence[Row[Any]]) -> dict[str, Any]:
    """The first failure that is a cause and not a consequence."""
    errors = [(run.role, run.error) for run in runs if run.state == State.FAILED]
    role, error = min(errors, key=lambda item: item[1].get("code") == "dependency_failed")
    return {**error, "role": role}
