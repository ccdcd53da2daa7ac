"""The one task: claim -> carry out -> store under the fence. Its argument is a run id."""

import os
import signal
import time
from functools import lru_cache
from typing import Any
from uuid import UUID

import structlog
from celery.signals import worker_process_init, worker_shutting_down

from service.artifacts import ArtifactStore, storage_problem
from service.ledger import runs
from service.ledger.unit_of_work import Ledger
from service.settings import Settings, get_settings
from service.telemetry import configure_telemetry, run_span, trace_id
from spinal.errors import Cancelled, DatabaseUnavailable, InternalError, LeaseLost, OutOfMemory, SpinalError
from worker.celery_app import TASK, app
from worker.execute import Job
from worker.lease import RELEASING, Lease, end_stopped, record_refusal, worker_name
from worker.store import TRY_AGAIN_AFTER_S

log = structlog.get_logger(__name__)


@lru_cache(maxsize=1)
def _ledger() -> Ledger:
    """This process's connections; made on the first task, long after any fork."""
    return Ledger(get_settings())


@app.task(name=TASK, bind=True)
def run(self: Any, run_id: str) -> None:
    """Carry out one run, if it is still to be done."""
    with structlog.contextvars.bound_contextvars(run_id=run_id, task_id=self.request.id):
        problem = perform(UUID(run_id), worker_name(self.request.id))
        if problem is not None and problem.ends_process:
            log.error("ending this process, the next run gets a fresh one", code=problem.code)
            os._exit(71)


def perform(run_id: UUID, worker: str) -> SpinalError | None:
    """Claim and carry out; returns what went wrong. A doorbell without a claimable run is no error."""
    if RELEASING.is_set():
        return None
    settings = get_settings()
    claim = _claim(run_id, worker, settings)
    if claim is None:
        log.info("nothing to claim")
        return None
    ids: dict[str, Any] = {"audit_ids": [str(audit) for audit in claim.audits], "attempt": claim.attempt}
    if claim.traceparent is not None:
        ids["trace_id"] = trace_id(claim.traceparent)
    with (
        structlog.contextvars.bound_contextvars(**ids),
        run_span(claim.kind.value, claim.traceparent, run_id=str(run_id), attempt=claim.attempt) as span,
    ):
        log.info("claimed", kind=claim.kind.value)
        problem = _carry_out(claim, settings)
        if problem is not None:
            span.fail(problem.code)
    return problem


def _claim(run_id: UUID, worker: str, settings: Settings) -> runs.Claim | None:
    """Claim the run, for as long as a lease lasts; a commit whose answer got lost is read back."""
    give_up, unsure = time.monotonic() + settings.lease_s, False
    while True:
        try:
            with _ledger().begin() as session:
                # Only after a commit of our own went unanswered: a doubled doorbell must not share a claim.
                held = runs.held_claim(session, run_id, worker=worker) if unsure else None
                return held or runs.claim(
                    session, run_id, worker=worker, lease_s=settings.lease_s, deadline_s=settings.run_deadline_s
                )
        except DatabaseUnavailable as error:
            unsure = True
            log.warning("claim failed", error=error.detail)
            if RELEASING.is_set() or time.monotonic() > give_up:
                # The dispatcher rings again; a claim made without our knowing ends with its lease.
                return None
        time.sleep(TRY_AGAIN_AFTER_S)


def _carry_out(claim: runs.Claim, settings: Settings) -> SpinalError | None:
    """One attempt from its lease to its last write; returns what went wrong."""
    _set_threads(settings)
    with Lease(_ledger(), settings, claim) as lease:
        problem = _attempt(claim, lease, settings)
    if isinstance(problem, LeaseLost):
        record_refusal(_ledger(), claim)
    elif problem is not None:
        _write_failure(claim, lease, problem, settings)
    return problem


def _attempt(claim: runs.Claim, lease: Lease, settings: Settings) -> SpinalError | None:
    """Carry out the run; returns what went wrong."""
    try:
        digest = Job(_ledger(), settings, claim, lease).carry_out()
    except SpinalError as error:
        return error
    except MemoryError:
        return OutOfMemory("the worker ran out of memory", hint="lower batch_size, or use a larger machine")
    except Exception as error:
        log.exception("run failed unexpectedly")
        hint = "the worker's log holds the traceback"
        return storage_problem(error) or InternalError(f"{type(error).__name__}: {error}", hint=hint)
    log.info("succeeded", digest=digest)
    return None


def _write_failure(claim: runs.Claim, lease: Lease, problem: SpinalError, settings: Settings) -> None:
    try:
        with _ledger().begin() as session:
            if isinstance(problem, Cancelled) and lease.stop is not None:
                end_stopped(session, settings, claim, lease.stop)
                log.info("stopped", why=lease.stop.value)
                return
            state = runs.fail(
                session,
                claim.run_id,
                claim.attempt,
                problem.to_problem(),
                retryable=problem.retryable,
                max_attempts=settings.max_attempts,
                backoff_s=settings.backoff_s,
            )
        log.warning("attempt failed", code=problem.code, detail=problem.detail, state=state)
    except LeaseLost:
        record_refusal(_ledger(), claim)
    except DatabaseUnavailable as error:
        log.warning("outcome left to the reaper", error=error.detail)


def _set_threads(settings: Settings) -> None:
    if settings.engine.startswith("spinal.engine"):
        from spinal.engine.threads import set_threads

        set_threads(settings.torch_threads)


@worker_process_init.connect
def _begin_child(**_: Any) -> None:
    signal.signal(signal.SIGUSR2, lambda *_args: RELEASING.set())
    settings = get_settings()
    configure_telemetry(settings, "spinal-worker")
    for left in ArtifactStore(settings).sweep_scratch():
        log.warning("removed what a killed worker left", folder=str(left))


@worker_shutting_down.connect
def _tell_children(**_: Any) -> None:
    """Runs in the parent on SIGTERM: children put their runs back instead of finishing them."""
    from billiard import active_children

    for child in active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGUSR2)
