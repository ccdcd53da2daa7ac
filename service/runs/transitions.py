"""What workers and the reaper do to runs: one readable statement per transition, database time only, every worker write
fenced by its attempt.

Locks are taken in one order, so that no two transactions wait for each other (``tests/ledger/test_lock_order.py``):

1. a series;
2. runs, by the depth of their specification, then by its digest: those in flight that are changed or must not end, and
   those that have succeeded and are named again (``FOR KEY SHARE``, against deletion). What waits for a run that has
   just succeeded lies deeper, and is locked by a trigger in the same order;
3. the turn of a tenant (``turns``), by the trigger of a claim or of what is handed back: one in a transaction, and only
   where nobody else is at it;
4. audits, by id;
5. results, comparisons before traces, and stored prompts, by digest: of those who delete alone;
6. the counts of a tenant (``service/tenants/counts.py``), in the order of ``COUNTED``, by those who add to them: last,
   and nobody waits behind them. Who ends audits, of whatever tenants, adds rows and takes no lock.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.runs.kinds import IS_KNOWN, LOCK_ORDER, Attempts, known_versions
from service.runs.settle import settle
from service.runs.wake import wake_dispatchers
from spinal.errors import AttemptsExhausted, DeadlineExceeded, DependencyFailed, LeaseLost

NO_OPEN_DEPENDENCY = """NOT EXISTS (SELECT 1 FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
                WHERE d.run_id = runs.id AND n.state <> 'SUCCEEDED')"""


@dataclass(frozen=True)
class Claim:
    """A worker's right to one attempt of a run."""

    run_id: UUID
    attempt: int
    kind: str
    spec: dict[str, Any]
    traceparent: str | None
    audits: tuple[UUID, ...] = ()
    """Open audits that wait for this run."""


@dataclass(frozen=True)
class Beat:
    """What a heartbeat learns."""

    alive: bool
    cancel_requested: bool


def claim(session: Session, run_id: UUID, *, worker: str, lease_s: float, deadline_s: float) -> Claim | None:
    """Take a queued run; None when there is nothing to take (a late, doubled or unknown doorbell, a run of a kind that
    this code does not know or that newer code has specified, or a delivery made twice: ``worker`` names the delivery).
    """
    row = session.execute(
        text(f"""UPDATE runs SET state = 'RUNNING', attempt = attempt + 1, charged_attempts = charged_attempts + 1,
                   worker = :worker, lease_until = now() + make_interval(secs => :lease),
                   deadline_at = now() + make_interval(secs => :deadline),
                   started_at = COALESCE(started_at, now()), progress = NULL
                 WHERE id = :id AND state = 'QUEUED' AND NOT cancel_requested AND not_before <= now()
                   AND {IS_KNOWN} AND {NO_OPEN_DEPENDENCY}
                   AND NOT EXISTS (SELECT 1 FROM runs o WHERE o.state = 'RUNNING' AND o.worker = :worker)
                 RETURNING attempt, kind, spec, traceparent"""),  # noqa: S608  constants of this code
        {"id": run_id, "worker": worker, "lease": lease_s, "deadline": deadline_s, "known": known_versions()},
    ).one_or_none()
    if row is None:
        return None
    session.execute(
        text("INSERT INTO run_attempts (run_id, attempt, worker) VALUES (:id, :attempt, :worker)"),
        {"id": run_id, "attempt": row.attempt, "worker": worker},
    )
    settle(session, [run_id])
    return Claim(run_id, row.attempt, row.kind, row.spec, row.traceparent, _open_audits(session, run_id))


def held_claim(session: Session, *, worker: str) -> Claim | None:
    """The claim this delivery made in a commit whose answer got lost, if it was made."""
    row = session.execute(
        text("SELECT id, attempt, kind, spec, traceparent FROM runs WHERE worker = :worker AND state = 'RUNNING'"),
        {"worker": worker},
    ).one_or_none()
    if row is None:
        return None
    run_id = UUID(str(row.id))
    return Claim(run_id, row.attempt, row.kind, row.spec, row.traceparent, _open_audits(session, run_id))


def heartbeat(session: Session, run_id: UUID, attempt: int, *, lease_s: float, progress: dict[str, Any] | None) -> Beat:
    """Keep the lease and report progress; ``alive`` False means the run is no longer this attempt's."""
    row = session.execute(
        text("""UPDATE runs SET lease_until = now() + make_interval(secs => :lease),
                  progress = COALESCE(CAST(:progress AS jsonb), progress)
                WHERE id = :id AND attempt = :attempt AND state = 'RUNNING' AND deadline_at > now()
                RETURNING cancel_requested"""),
        {
            "id": run_id,
            "attempt": attempt,
            "lease": lease_s,
            "progress": json.dumps(progress) if progress is not None else None,
        },
    ).one_or_none()
    if row is None:
        return Beat(alive=False, cancel_requested=False)
    return Beat(alive=True, cancel_requested=row.cancel_requested)


def check_fence(session: Session, run_id: UUID, attempt: int) -> bool:
    """Lock the run for this attempt's writes; True when nobody wants the run any more. Raises LeaseLost when it is no
    longer this attempt's."""
    unwanted: bool | None = session.execute(
        text("""SELECT cancel_requested FROM runs WHERE id = :id AND attempt = :attempt AND state = 'RUNNING'
                FOR NO KEY UPDATE"""),
        {"id": run_id, "attempt": attempt},
    ).scalar()
    if unwanted is None:
        raise LeaseLost(f"attempt {attempt} of run {run_id} is no longer the current one")
    return unwanted


def attempt_outcome(session: Session, run_id: UUID, attempt: int) -> str | None:
    """How an attempt ended, read back after a commit whose answer was lost; None while it goes on."""
    found: str | None = session.execute(
        text("SELECT outcome FROM run_attempts WHERE run_id = :id AND attempt = :attempt"),
        {"id": run_id, "attempt": attempt},
    ).scalar()
    return found


def record_refusal(session: Session, run_id: UUID, attempt: int, *, beat: bool) -> bool:
    """Count a write that the fence refused (a heartbeat, or the end of an attempt with its result); False when the
    attempt had not been taken away."""
    counted = session.execute(
        text("""UPDATE run_attempts SET refused_beats = refused_beats + CAST(:beat AS int),
                  refused_writes = refused_writes + 1 - CAST(:beat AS int)
                WHERE run_id = :id AND attempt = :attempt AND outcome IN ('lost','cancelled') RETURNING attempt"""),
        {"id": run_id, "attempt": attempt, "beat": beat},
    ).scalar()
    return counted is not None


def succeed(
    session: Session,
    run_id: UUID,
    attempt: int,
    result_digest: str,
    store: Callable[[Session], None] = lambda _session: None,
) -> str:
    """RUNNING -> SUCCEEDED under the fence, in the transaction in which ``store`` writes the result; a run that is not
    wanted any more -> CANCELLED, with nothing stored (another may be doing the same by now). Returns the new state;
    raises LeaseLost."""
    if check_fence(session, run_id, attempt):
        cancelled(session, run_id, attempt)
        return "CANCELLED"
    store(session)
    _finish(session, run_id, attempt, "SUCCEEDED", "succeeded", result=result_digest)
    settle(session, [run_id])
    return "SUCCEEDED"


def fail(
    session: Session,
    run_id: UUID,
    attempt: int,
    problem: dict[str, Any],
    *,
    retryable: bool,
    max_attempts: int,
    backoff_s: float,
    pause_s: float | None = None,
    store: Callable[[Session], None] = lambda _session: None,
) -> str:
    """RUNNING -> QUEUED with backoff, or for ``pause_s``, while another attempt may help, else -> FAILED; one that
    would be queued again but is not wanted any more -> CANCELLED. ``store`` writes what is to be kept of the attempt,
    in any case. Returns the new state."""
    unwanted = check_fence(session, run_id, attempt)
    store(session)
    if retryable and unwanted:
        cancelled(session, run_id, attempt)
        return "CANCELLED"
    if retryable and _requeue(session, run_id, attempt, "retry", problem, max_attempts, backoff_s, pause_s):
        return "QUEUED"
    error = _exhausted(session, run_id, problem, "failed") if retryable else problem
    _finish(session, run_id, attempt, "FAILED", "failed", problem=error)
    _fail_dependents(session, run_id, error)
    return "FAILED"


def release(
    session: Session, run_id: UUID, attempt: int, *, pause_s: float = 0.0, problem: dict[str, Any] | None = None
) -> None:
    """RUNNING -> QUEUED without charging the attempt: the worker is going away in good order, or is not the one to do
    it, and nobody is to take the run for ``pause_s``. ``problem`` says why, where there is more to say, and is kept
    with the attempt. A run that is not wanted any more -> CANCELLED."""
    if check_fence(session, run_id, attempt):
        cancelled(session, run_id, attempt)
        return
    session.execute(
        text("""UPDATE runs SET state = 'QUEUED', charged_attempts = charged_attempts - 1, lease_until = NULL,
                  worker = NULL, rung_at = NULL, not_before = now() + make_interval(secs => :pause), progress = NULL
                WHERE id = :id"""),
        {"id": run_id, "pause": pause_s},
    )
    _end_attempt(session, run_id, attempt, "released", problem)
    wake_dispatchers(session, run_id)
    settle(session, [run_id])


def cancelled(session: Session, run_id: UUID, attempt: int) -> None:
    """RUNNING -> CANCELLED: the worker stopped because it was asked to."""
    _finish(session, run_id, attempt, "CANCELLED", "cancelled")
    settle(session, [run_id])


def expire_lease(session: Session, worker: str) -> UUID | None:
    """End the lease of a worker known to be dead, so that its run can be taken back at once; returns the run."""
    ended = session.execute(
        text("UPDATE runs SET lease_until = now() WHERE state = 'RUNNING' AND worker = :worker RETURNING id"),
        {"worker": worker},
    ).scalar()
    return None if ended is None else UUID(str(ended))


def fail_orphans(session: Session) -> list[tuple[UUID, str]]:
    """Queued runs that can never start: cancelled when nobody wants them, failed when what they wait for has failed or
    was given up. No transition of this code leaves any; that of the release before could. Returns (run, new state)."""
    given_up = session.execute(
        text("""UPDATE runs SET state = 'CANCELLED', finished_at = now() WHERE id IN (
                  SELECT id FROM runs WHERE state = 'QUEUED' AND cancel_requested FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING id""")
    ).all()
    error = DependencyFailed("a run that this one waits for was given up", hint="submit the audit again").to_problem()
    orphaned = session.execute(
        text("""UPDATE runs SET state = 'FAILED', error = CAST(:error AS jsonb), finished_at = now() WHERE id IN (
                  SELECT r.id FROM runs r WHERE r.state = 'QUEUED' AND EXISTS (
                    SELECT 1 FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
                    WHERE d.run_id = r.id AND n.state IN ('FAILED','CANCELLED'))
                  FOR NO KEY UPDATE SKIP LOCKED)
                RETURNING id"""),
        {"error": json.dumps(error)},
    ).all()
    ended = [(UUID(str(row.id)), "CANCELLED") for row in given_up]
    ended += [(UUID(str(row.id)), "FAILED") for row in orphaned]
    settle(session, [run for run, _ in ended])
    return ended


def dependency_results(session: Session, run_id: UUID) -> dict[str, str]:
    """Result digests of the runs that ``run_id`` depends on, by specification digest."""
    rows = session.execute(
        text("""SELECT n.spec_digest, n.result_digest FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
                WHERE d.run_id = :id AND n.state = 'SUCCEEDED'"""),
        {"id": run_id},
    )
    return {row.spec_digest: row.result_digest for row in rows}


def reap_expired(
    session: Session, *, attempts_of: Callable[[str], Attempts], only: UUID | None = None
) -> tuple[UUID, str] | None:
    """Take back the run whose lease expired first (or ``only`` that one): cancelled when flagged, queued again, or
    failed after the last of the attempts of its kind. Returns (run, new state), None when no lease has expired. One run
    per transaction, for the order of locks."""
    row = session.execute(
        text("""SELECT id, kind, attempt, cancel_requested, worker, deadline_at <= now() AS late FROM runs
                WHERE state = 'RUNNING' AND lease_until <= now() AND (CAST(:only AS uuid) IS NULL OR id = :only)
                ORDER BY lease_until LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"""),
        {"only": only},
    ).one_or_none()
    if row is None:
        return None
    run_id = UUID(str(row.id))
    if row.cancel_requested:
        cancelled(session, run_id, row.attempt)
        return run_id, "CANCELLED"
    lost = (
        DeadlineExceeded(f"attempt {row.attempt} was ended at its deadline")
        if row.late
        else LeaseLost(f"the worker fell silent during attempt {row.attempt}")
    ).to_problem()
    allowed = attempts_of(row.kind)
    if _requeue(session, run_id, row.attempt, "lost", lost, allowed.most, allowed.backoff_s):
        return run_id, "QUEUED"
    error = _exhausted(session, run_id, lost, "lost")
    _finish(session, run_id, row.attempt, "FAILED", "lost", problem=error)
    _fail_dependents(session, run_id, error)
    return run_id, "FAILED"


def _open_audits(session: Session, run_id: UUID) -> tuple[UUID, ...]:
    found = session.execute(
        text("""SELECT a.id FROM audits a JOIN audit_runs x ON x.audit_id = a.id
                WHERE x.run_id = :run AND a.state IN ('QUEUED','RUNNING') ORDER BY a.id"""),
        {"run": run_id},
    )
    return tuple(UUID(str(row.id)) for row in found)


def _finish(
    session: Session,
    run_id: UUID,
    attempt: int,
    state: str,
    outcome: str,
    *,
    result: str | None = None,
    problem: dict[str, Any] | None = None,
) -> None:
    ended = session.execute(
        text("""UPDATE runs SET state = :state, result_digest = :result, error = CAST(:error AS jsonb),
                  finished_at = now(), lease_until = NULL
                WHERE id = :id AND attempt = :attempt AND state = 'RUNNING' RETURNING id"""),
        {
            "id": run_id,
            "attempt": attempt,
            "state": state,
            "result": result,
            "error": json.dumps(problem) if problem is not None else None,
        },
    ).scalar()
    if ended is None:
        raise LeaseLost(f"attempt {attempt} of run {run_id} is no longer the current one")
    _end_attempt(session, run_id, attempt, outcome, problem)
    wake_dispatchers(session, run_id)


def _end_attempt(session: Session, run_id: UUID, attempt: int, outcome: str, problem: dict[str, Any] | None) -> None:
    session.execute(
        text("""UPDATE run_attempts SET ended_at = now(), outcome = :outcome, error = CAST(:error AS jsonb)
                WHERE run_id = :id AND attempt = :attempt AND outcome IS NULL"""),
        {
            "id": run_id,
            "attempt": attempt,
            "outcome": outcome,
            "error": json.dumps(problem) if problem is not None else None,
        },
    )


def _requeue(
    session: Session,
    run_id: UUID,
    attempt: int,
    outcome: str,
    problem: dict[str, Any],
    max_attempts: int,
    backoff_s: float,
    pause_s: float | None = None,
) -> bool:
    """RUNNING -> QUEUED after a jittered, doubling pause, or after ``pause_s``, unless the attempts are used up."""
    taken = session.execute(
        text("""UPDATE runs SET state = 'QUEUED', lease_until = NULL, worker = NULL, rung_at = NULL, progress = NULL,
                  not_before = now() + make_interval(
                    secs => COALESCE(CAST(:pause AS float8),
                      :backoff * power(2, charged_attempts - 1) * (0.5 + random())))
                WHERE id = :id AND attempt = :attempt AND state = 'RUNNING' AND charged_attempts < :most
                RETURNING id"""),
        {"id": run_id, "attempt": attempt, "most": max_attempts, "backoff": backoff_s, "pause": pause_s},
    ).scalar()
    if taken is None:
        return False
    _end_attempt(session, run_id, attempt, outcome, problem)
    wake_dispatchers(session, run_id)
    settle(session, [run_id])
    return True


def _exhausted(session: Session, run_id: UUID, last: dict[str, Any], outcome: str) -> dict[str, Any]:
    """The error of a run whose attempts are used up, with the history of all of them. Tenants read it: which worker it
    was stands in ``run_attempts``."""
    history = session.execute(
        text("""SELECT attempt, outcome, error->>'code' AS code, error->>'detail' AS detail
                FROM run_attempts WHERE run_id = :id ORDER BY attempt"""),
        {"id": run_id},
    ).all()
    attempts = [
        {
            "attempt": row.attempt,
            "outcome": row.outcome or outcome,
            "code": row.code or last.get("code"),
            "detail": row.detail or last.get("detail"),
        }
        for row in history
    ]
    return AttemptsExhausted(
        f"all {len(attempts)} attempts failed; the last: {last.get('detail')}",
        hint=last.get("hint") or "look at the history of attempts; submit again when the cause is removed",
        attempts=attempts,
        last_code=last.get("code"),
    ).to_problem()


def _fail_dependents(session: Session, run_id: UUID, problem: dict[str, Any]) -> None:
    error = DependencyFailed(
        f"what it waits for failed: {problem.get('detail')}", cause=problem.get("code")
    ).to_problem()
    session.execute(
        text(f"""SELECT 1 FROM runs WHERE id IN (SELECT run_id FROM run_dependencies WHERE depends_on = :id)
                 ORDER BY {LOCK_ORDER} FOR NO KEY UPDATE"""),  # noqa: S608  a constant of kinds.py
        {"id": run_id},
    )
    rows = session.execute(
        text("""UPDATE runs SET state = 'FAILED', error = CAST(:error AS jsonb), finished_at = now()
                WHERE state = 'QUEUED' AND id IN (SELECT run_id FROM run_dependencies WHERE depends_on = :id)
                RETURNING id"""),
        {"id": run_id, "error": json.dumps(error)},
    )
    settle(session, [run_id, *(UUID(str(row.id)) for row in rows)])
