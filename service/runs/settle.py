"""Audits follow their runs, in the transaction that moved the run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.runs.lifecycle import TERMINAL, State, audit_state
from service.runs.wake import tell_waiters
from spinal.documents.comparison import Comparison, Verdict
from spinal.documents.later import put_back
from spinal.documents.policy import Policy
from spinal.policy.decide import POLICY, judged, paths_of, reads_former
from spinal.policy.values import named

UNREADABLE = "the comparison was written by newer code than that which settled the audit; submit it again"
UNREADABLE_POLICY = "the policy was stored by newer code than that which settled the audit; submit it again"
HOLDS = """(audits.state NOT IN ('CANCELLED','FAILED') OR runs.finished_at <= audits.finished_at
  OR runs.result_digest IN
    (audits.candidate_trace, audits.reference_trace, audits.control_trace, audits.comparison))"""
"""SQL: an audit holds the result of a run that it needs. One that was cancelled or has failed holds what had been made
by then: nothing changes after its end."""
HOLDERS = "runs JOIN audit_runs x ON x.run_id = runs.id JOIN audits ON audits.id = x.audit_id"
HELD = f"audits.tenant = :tenant AND {HOLDS}"
"""SQL: results and the audits that hold them; those of one tenant."""


@dataclass(frozen=True)
class Question:
    """What a verdict is asked for: many audits may ask the same."""

    comparison: str
    policy: str | None
    """Digest; None for audits of the release before, which are judged by today's default policy."""
    former: str | None
    """Digest of the comparison of the former audit."""
    today: date
    """By the database, in UTC: waivers hold until their last day has passed."""


Verdicts = dict[Question, dict[str, Any] | None]


def settle(session: Session, run_ids: Sequence[UUID]) -> None:
    """Bring every open audit that needs one of the runs to the state its runs imply."""
    open_audits = session.execute(
        text("""SELECT id FROM audits WHERE state IN ('QUEUED','RUNNING')
                AND id IN (SELECT audit_id FROM audit_runs WHERE run_id = ANY(:runs))
                ORDER BY id FOR NO KEY UPDATE"""),
        {"runs": list(run_ids)},
    )
    _settle_all(session, [row.id for row in open_audits.all()])


def settle_overlooked(session: Session) -> list[UUID]:
    """Settle open audits whose runs have all ended, and return them. No transition of this code leaves any; where the
    release before ended the last run of an audit with a policy that it does not know, its verdict was passed over."""
    overlooked = session.execute(
        text("""SELECT id FROM audits WHERE state IN ('QUEUED','RUNNING') AND policy IS NOT NULL
                  AND EXISTS (SELECT 1 FROM audit_runs x WHERE x.audit_id = audits.id)
                  AND NOT EXISTS (SELECT 1 FROM audit_runs x JOIN runs r ON r.id = x.run_id
                    WHERE x.audit_id = audits.id AND r.state IN ('QUEUED','RUNNING'))
                ORDER BY id FOR NO KEY UPDATE SKIP LOCKED""")
    )
    found = [UUID(str(row.id)) for row in overlooked.all()]
    _settle_all(session, found)
    return found


def _settle_all(session: Session, audits: Sequence[UUID]) -> None:
    verdicts: Verdicts = {}
    for audit in audits:
        settle_audit(session, audit, verdicts)


def settle_audit(session: Session, audit_id: UUID, verdicts: Verdicts | None = None) -> State:
    """Recompute one audit (whose row the caller holds) from its runs; returns its state. ``verdicts`` keeps those of
    comparisons that many audits wait for under one policy."""
    runs = session.execute(
        text("""SELECT role, state, result_digest, error FROM audit_runs JOIN runs ON runs.id = run_id
                WHERE audit_id = :audit ORDER BY role"""),
        {"audit": audit_id},
    ).all()
    state = audit_state([State(run.state) for run in runs])
    results = {run.role: run.result_digest for run in runs}
    error = _error(runs) if state is State.FAILED else None
    compared = results.get("compare") if state is State.SUCCEEDED else None
    verdict = None
    if compared is not None:
        known, asked = {} if verdicts is None else verdicts, _question(session, audit_id, compared)
        if asked not in known:
            known[asked] = _verdict(session, asked)
        verdict = known[asked]
    moved = session.execute(
        text("""UPDATE audits SET state = :state, version = version + 1,
                  candidate_trace = :candidate, reference_trace = :reference, control_trace = :control,
                  comparison = :comparison,
                  verdict = :verdict, verdict_document = CAST(:verdict_document AS jsonb),
                  error = CAST(:error AS jsonb),
                  started_at = CASE WHEN :state <> 'QUEUED' THEN COALESCE(started_at, now()) ELSE started_at END,
                  finished_at = CASE WHEN :terminal THEN now() END
                WHERE id = :audit AND (state, candidate_trace, reference_trace, control_trace, comparison)
                  IS DISTINCT FROM (:state, :candidate, :reference, :control, :comparison)
                RETURNING series"""),
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
    ).one_or_none()
    if moved is not None and state in TERMINAL:
        tell_waiters(session, audit_id, moved.series)
    return state


def _question(session: Session, audit_id: UUID, comparison: str) -> Question:
    row = session.execute(
        text("""SELECT a.policy, f.comparison AS former, CAST(now() AT TIME ZONE 'UTC' AS date) AS today
                FROM audits a LEFT JOIN audits f ON f.id = a.former WHERE a.id = :audit"""),
        {"audit": audit_id},
    ).one()
    return Question(comparison, row.policy, row.former, row.today)


def _verdict(session: Session, asked: Question) -> dict[str, Any] | None:
    """What a policy says of a stored comparison. One that this code cannot read, because newer code wrote it, keeps the
    verdict that it carries, which is that of a default policy; where it carries none, or an audit asks for the rules of
    its own tenant, nothing can be said."""
    stored = _stored_comparison(session, asked.comparison)
    if stored is None:
        return None
    policy, default = None, True
    if asked.policy is not None:
        row = session.execute(
            text("SELECT name, document FROM policies WHERE digest = :policy LIMIT 1"), {"policy": asked.policy}
        ).one()
        default = row.name == POLICY
        policy = read_policy(row.document)
        if policy is None:
            return _undecided(row.name, asked.policy, UNREADABLE_POLICY)
    try:
        content = read_comparison(stored)
    except ValidationError:
        carried: dict[str, Any] = stored.document.get("verdict") or {}
        if default and carried and carried.get("policy_digest") in (None, asked.policy):
            return carried
        return _undecided(POLICY if policy is None else policy.name, asked.policy, UNREADABLE)
    former = _former(session, asked, policy)
    verdict = judged(content, policy, former=former, today=asked.today).verdict
    if asked.policy is not None:
        # As it is stored. Spelled out by later code, which may know more members, it would be another number.
        verdict = verdict.model_copy(update={"policy_digest": asked.policy})
    return verdict.model_dump(mode="json")


def read_policy(document: dict[str, Any]) -> Policy | None:
    """A stored policy; None for one of newer code: of another form, or with rules on values that this code does not
    know."""
    try:
        policy = Policy.model_validate(document)
    except ValidationError:
        return None
    return policy if all(named(path) is not None for path in paths_of(policy)) else None


def _undecided(policy: str, digest: str | None, why: str) -> dict[str, Any]:
    verdict = Verdict(outcome="inconclusive", policy=policy, policy_digest=digest, reasons=(why,))
    return verdict.model_dump(mode="json")


def _former(session: Session, asked: Question, policy: Policy | None) -> Comparison | None:
    """What rules on values of a former audit read; None where there are none, and where newer code wrote it."""
    if asked.former is None or policy is None or not reads_former(policy):
        return None
    stored = _stored_comparison(session, asked.former)
    try:
        return None if stored is None else read_comparison(stored)
    except ValidationError:
        return None


def _stored_comparison(session: Session, digest: str) -> Row[Any] | None:
    return session.execute(
        text("SELECT document, later FROM comparisons WHERE digest = :comparison"), {"comparison": digest}
    ).one_or_none()


def read_comparison(stored: Row[Any]) -> Comparison:
    """A stored comparison, by its columns ``document`` and ``later``; raises ValidationError for one of newer code."""
    return Comparison.model_validate(put_back(stored.document, stored.later))


def _error(runs: Sequence[Row[Any]]) -> dict[str, Any]:
    """The first failure that is a cause and not a consequence."""
    errors = [(run.role, run.error) for run in runs if run.state == State.FAILED]
    role, error = min(errors, key=lambda item: item[1].get("code") == "dependency_failed")
    return {**error, "role": role}
