"""The one task: claim -> carry out -> store under the fence. Its argument is the id of a run that waits."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any
from uuid import UUID

import structlog
from celery.signals import worker_process_init, worker_shutting_down
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.platform.artifacts import ArtifactStore, storage_problem
from service.platform.telemetry import configure_telemetry, run_span, trace_id
from service.runs import attempts, rings, transitions
from service.runs.kinds import KINDS, UnknownKind, attempts_of
from service.settings import Settings, get_settings
from spinal.checkpoints.held import sweep_held
from spinal.errors import (
    Cancelled,
    DatabaseUnavailable,
    DeviceFailed,
    InternalError,
    LeaseLost,
    NotReady,
    OutOfMemory,
    SpinalError,
    StorageUnavailable,
)
from spinal.errors.faults import lacks_memory
from worker.celery_app import TASK, app
from worker.job import Job, MissingHere, NotSetUpHere, SourceAway
from worker.kinds import CarryOut, load_kind
from worker.lease import RELEASING, Lease, Stop, end_stopped, record_refusal, worker_name
from worker.store import TRY_AGAIN_AFTER_S, end_attempt
from worker.stores import LONGEST_PAUSE_S, Gate, device_problem, give_back

log = structlog.get_logger(__name__)

LONGEST_AWAY_S = 600.0
"""A source may ask for more: whether it means it is seen then."""
MISSING, AWAY, STORE, DEVICE, SETTING = "missing", "away", "store", "device", "setting"
"""Why a run was handed back: each has a patience of its own, which for a worker's own settings has no end."""
CLAIM_TRIES = 10
"""So many runs may be taken by others at the last moment; a doorbell that is delivered twice gets none, however often
it tries."""


_gate = Gate()


@lru_cache(maxsize=1)
def _ledger() -> Ledger:
    """This process's connections; made on the first task, long after any fork."""
    return Ledger(get_settings())


@app.task(name=TASK, bind=True)
def run(self: Any, run_id: str) -> None:
    """Answer one doorbell."""
    with structlog.contextvars.bound_contextvars(task_id=self.request.id):
        problem = perform(UUID(run_id), worker_name(self.request.id))
        if problem is not None and problem.ends_process:
            log.error("ending this process, the next run gets a fresh one", code=problem.code)
            os._exit(71)


def perform(rung: UUID, worker: str) -> SpinalError | None:
    """Claim and carry out the run that should go first where ``rung`` waits, which need not be that one: the message is
    a doorbell. Returns what went wrong. A doorbell without a claimable run is no error."""
    if RELEASING.is_set():
        return None
    settings = get_settings()
    if not _gate.wait(_ledger(), settings, rung):
        return None
    broken = _device_problem()
    if broken is not None:
        return _leave_to_others(rung, broken)
    claim = _claim(rung, worker, settings)
    if claim is None:
        log.info("nothing to claim", rung=str(rung))
        return None
    ids: dict[str, Any] = {
        "run_id": str(claim.run_id),
        "audit_ids": [str(audit) for audit in claim.audits],
        "attempt": claim.attempt,
    }
    if claim.traceparent is not None:
        ids["trace_id"] = trace_id(claim.traceparent)
    with (
        structlog.contextvars.bound_contextvars(**ids),
        run_span(claim.kind, claim.traceparent, run_id=str(claim.run_id), attempt=claim.attempt) as span,
    ):
        log.info("claimed", kind=claim.kind)
        problem = _carry_out(claim, settings)
        if problem is not None:
            span.fail(problem.code)
    return problem


@lru_cache(maxsize=1)
def _device_problem() -> DeviceFailed | None:
    """Asked once: a process whose device fails later ends."""
    return device_problem(get_settings())


def _leave_to_others(rung: UUID, problem: DeviceFailed) -> DeviceFailed:
    """Take no run, and end this process after a while: the one that replaces it may find the device again."""
    log.error("taking no runs", code=problem.code, why=problem.detail)
    give_back(_ledger(), rung)
    RELEASING.wait(LONGEST_PAUSE_S)
    return problem


def _claim(rung: UUID, worker: str, settings: Settings) -> transitions.Claim | None:
    """Claim a run, trying for as long as a lease lasts; a commit whose answer got lost is read back."""
    give_up, unsure, tries = time.monotonic() + settings.lease_s, False, 0
    while True:
        try:
            with _ledger().begin() as session:
                # Only after a commit of our own went unanswered: a doubled doorbell must not share a claim.
                held = transitions.held_claim(session, worker=worker) if unsure else None
                if held is not None:
                    return held
                best = rings.next_run(session, rung)
                claimed = _claim_one(session, best or rings.queued_run(session, rung), worker, settings)
        except DatabaseUnavailable as error:
            unsure = True
            log.warning("claim failed", error=error.detail)
            if RELEASING.is_set() or time.monotonic() > give_up:
                # The dispatcher rings again; a claim made without our knowing ends with its lease.
                return None
            time.sleep(TRY_AGAIN_AFTER_S)
        else:
            tries += 1
            if claimed is not None or best is None or tries == CLAIM_TRIES:
                return claimed
            # Somebody was faster; there may be another.


def _claim_one(session: Session, run: rings.Queued | None, worker: str, settings: Settings) -> transitions.Claim | None:
    if run is None:
        return None
    kind = KINDS.get(run.kind)
    if kind is None:
        log.warning("left to workers that know its kind", run_id=str(run.run_id), kind=run.kind)
        return None
    return transitions.claim(
        session, run.run_id, worker=worker, lease_s=settings.lease_s, deadline_s=kind.deadline_s(settings)
    )


def _carry_out(claim: transitions.Claim, settings: Settings) -> SpinalError | None:
    """One attempt from its lease to its last write; returns what went wrong."""
    with Lease(_ledger(), settings, claim) as lease:
        try:
            carry_out = load_kind(claim.kind)
        except UnknownKind as error:
            log.error("handing back what cannot be carried out here", kind=claim.kind, error=str(error))
            lease.work_done()
            _write_end(claim, lease, lambda session: _hand_back(session, claim, settings))
            return None
        try:
            problem = _attempt(carry_out, claim, lease, settings)
        except NotSetUpHere as error:
            log.error("handing back what this worker is not set up for", why=str(error))
            lease.work_done()
            _write_end(claim, lease, lambda session: _hand_back_not_set_up(session, claim, settings))
            return None
        except MissingHere as error:
            missing = error.problem
            log.error("handing back what this worker does not find", missing=missing.detail)
            lease.work_done()
            _write_end(claim, lease, lambda session: _hand_back_missing(session, claim, settings, missing))
            return None
        except SourceAway as error:
            away = error
            log.error("handing back what cannot be fetched now", code=away.problem.code, why=away.problem.detail)
            lease.work_done()
            _write_end(claim, lease, lambda session: _hand_back_away(session, claim, settings, away))
            return None
        lease.work_done()
        if isinstance(problem, LeaseLost):
            record_refusal(_ledger(), claim)
        elif problem is not None and lease.stop is None and (blamed := _of_this_worker(problem, settings)) is not None:
            reason, patience_s = blamed
            log.error("handing back what failed by this worker", code=problem.code, why=problem.detail)
            _gate.doubt()
            _write_end(claim, lease, partial(_hand_back_failed, claim, settings, problem, reason, patience_s))
        elif problem is not None and lease.stop is not Stop.LOST:
            _write_failure(claim, lease, problem, settings)
    return problem


def _hand_back(
    session: Session,
    claim: transitions.Claim,
    settings: Settings,
    pause_s: float = 0.0,
    problem: dict[str, Any] | None = None,
) -> str:
    """Uncharged, and with a pause in which another worker may come to have what this one lacks."""
    pause_s = max(pause_s, settings.ring_again_s)
    transitions.release(session, claim.run_id, claim.attempt, pause_s=pause_s, problem=problem)
    return "released"


def _hand_back_not_set_up(session: Session, claim: transitions.Claim, settings: Settings) -> str:
    """Uncharged, for as long as it takes. The pause doubles: where no worker is set up, the attempts are not many."""
    pause_s = min(attempts.handed_back_for(session, claim.run_id, SETTING), LONGEST_AWAY_S)
    problem = NotReady("the worker that took it is not set up for it").to_problem()
    return _hand_back(session, claim, settings, pause_s, problem | {"reason": SETTING})


def _hand_back_missing(session: Session, claim: transitions.Claim, settings: Settings, problem: SpinalError) -> str:
    """Uncharged, until it has been looked for in vain for long enough."""
    if attempts.handed_back_for(session, claim.run_id, MISSING) < settings.missing_model_s:
        return _hand_back(session, claim, settings, problem=problem.to_problem() | {"reason": MISSING})
    return _give_up(session, claim, problem)


def _hand_back_away(session: Session, claim: transitions.Claim, settings: Settings, away: SourceAway) -> str:
    """Uncharged, until the source has been away for long enough."""
    if attempts.handed_back_for(session, claim.run_id, AWAY) < settings.source_patience_s:
        pause_s, problem = min(away.pause_s or 0.0, LONGEST_AWAY_S), away.problem.to_problem() | {"reason": AWAY}
        return _hand_back(session, claim, settings, pause_s, problem)
    return _give_up(session, claim, away.problem)


def _of_this_worker(problem: SpinalError, settings: Settings) -> tuple[str, float] | None:
    """Why and for how long a run is handed back uncharged where storage or a device failed under it. Memory that ran
    out is charged: it is the run that is too large for this kind of machine, and the next one would fail alike."""
    if isinstance(problem, StorageUnavailable):
        return STORE, settings.storage_patience_s
    if problem.ends_process:
        return DEVICE, settings.device_patience_s
    return None


def _hand_back_failed(
    claim: transitions.Claim,
    settings: Settings,
    problem: SpinalError,
    reason: str,
    patience_s: float,
    session: Session,
) -> str:
    """Uncharged, until it has failed so for long enough. The pause doubles: a run that fills every disk, or makes every
    device fail, must not keep the workers from others."""
    since_s = attempts.handed_back_for(session, claim.run_id, reason)
    if since_s < patience_s:
        pause_s = min(since_s, LONGEST_AWAY_S)
        return _hand_back(session, claim, settings, pause_s, problem.to_problem() | {"reason": reason})
    return _give_up(session, claim, problem)


def _give_up(session: Session, claim: transitions.Claim, problem: SpinalError) -> str:
    return transitions.fail(
        session, claim.run_id, claim.attempt, problem.to_problem(), retryable=False, max_attempts=1, backoff_s=0.0
    )


def _attempt(carry_out: CarryOut, claim: transitions.Claim, lease: Lease, settings: Settings) -> SpinalError | None:
    """Carry out the run and store its result; returns what went wrong."""
    try:
        carry_out(Job(_ledger(), settings, claim, lease))
    except SpinalError as error:
        if error.__cause__ is not None:
            # Told to the caller in one line; whoever runs the service may need the rest.
            log.warning("run failed", code=error.code, exc_info=error)
        return error
    except (MissingHere, NotSetUpHere, SourceAway):
        raise
    except Exception as error:
        if lacks_memory(error):
            # Where it ran out is what tells the one from the other: a batch too large, or a leak of ours.
            log.exception("run out of memory")
            return OutOfMemory("the worker ran out of memory", hint="lower batch_size, or use a larger machine")
        log.exception("run failed unexpectedly")
        hint = "the worker's log holds the traceback"
        return storage_problem(error) or InternalError(f"{type(error).__name__}: {error}", hint=hint)
    return None


def _write_failure(claim: transitions.Claim, lease: Lease, problem: SpinalError, settings: Settings) -> None:
    why = lease.stop

    def write(session: Session) -> str:
        stopped = isinstance(problem, Cancelled | DatabaseUnavailable | StorageUnavailable) or problem.ends_process
        if stopped and why is not None:
            # It stopped because it was told to, measuring or waiting; or what failed meanwhile is no fault of the run.
            end_stopped(session, settings, claim, why)
            return why.value
        allowed = attempts_of(claim.kind, settings)
        return transitions.fail(
            session,
            claim.run_id,
            claim.attempt,
            problem.to_problem(),
            retryable=problem.retryable,
            max_attempts=allowed.most,
            backoff_s=allowed.backoff_s,
        )

    ended = _write_end(claim, lease, write)
    if ended is not None:
        log.warning("attempt ended", code=problem.code, detail=problem.detail, ended=ended)


def _write_end(claim: transitions.Claim, lease: Lease, write: Callable[[Session], str]) -> str | None:
    """End the attempt by ``write``; None when it had been taken away, or is left to the reaper."""
    try:
        return end_attempt(_ledger(), lease, claim, write)
    except LeaseLost:
        record_refusal(_ledger(), claim)
    except DatabaseUnavailable as error:
        log.warning("outcome left to the reaper", error=error.detail)
    return None


@worker_process_init.connect
def _begin_child(**_: Any) -> None:
    _listen_for_release()
    settings = get_settings()
    configure_telemetry(settings, "spinal-worker")
    for left in (*ArtifactStore(settings).sweep_scratch(), *sweep_held()):
        log.warning("removed what a killed worker left", folder=str(left))


def _listen_for_release() -> None:
    """Set RELEASING on SIGUSR2 although the main thread may be inside a kernel, where it runs no handler of Python's:
    the part in C writes the signal's number at once, and a thread reads it."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def read_on() -> None:
        while numbers := reader.recv(64):
            if signal.SIGUSR2 in numbers:
                RELEASING.set()

    # Not closed: it belongs to the process until that ends.
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    signal.signal(signal.SIGUSR2, lambda *_args: None)
    threading.Thread(target=read_on, daemon=True, name="release").start()


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    """Runs in the parent on SIGTERM: children put their runs back instead of finishing them."""
    from billiard import active_children

    for child in active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGUSR2)
