"""A worker's hold on one attempt: heartbeat, progress, cancellation, and the end of a hung one."""

import contextvars
import os
import socket
import threading
import time
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from service.ledger import runs
from service.ledger.unit_of_work import Ledger
from service.settings import Settings, get_settings
from spinal.errors import LeaseLost, RunStalled, SpinalError
from spinal.progress import Progress

log = structlog.get_logger(__name__)
ABANDON_AFTER_S = 8.0
"""Seconds a measurement may go on after it was told to stop; then its process is ended."""
RELEASING = threading.Event()
"""Set in a worker child that is shutting down in good order."""


class Stop(StrEnum):
    """Why a measurement has to stop."""

    LOST = "lost"
    CANCELLED = "cancelled"
    RELEASED = "released"
    STALLED = "stalled"


def worker_name(task_id: str) -> str:
    """Identity of one delivery: distinct for every doorbell, so that it also names the process behind it."""
    return f"{socket.gethostname()}/{task_id}"


class Lease:
    """Context around one claimed attempt. A thread beats every ``heartbeat_s`` (and at once on the first
    progress of a phase); :meth:`should_stop` is the measurement's cancel check."""

    def __init__(self, ledger: Ledger, settings: Settings, claim: runs.Claim) -> None:
        self._ledger = ledger
        self._settings = settings
        self._claim = claim
        self._progress: dict[str, Any] | None = None
        self._wake = threading.Event()
        self._done = threading.Event()
        self._last_beat = self._last_progress = time.monotonic()
        self._stop_since: float | None = None
        self.stop: Stop | None = None
        # In a copy of this context: the ids bound to the log are on the thread's lines, too.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._beat_on,), daemon=True, name=f"lease-{claim.run_id}"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._wake.set()
        self._thread.join(self._settings.db_statement_timeout_s + 1)

    def report(self, progress: Progress) -> None:
        """Remember the newest progress; it travels with the next heartbeat."""
        before = self._progress
        self._progress = {
            "phase": progress.phase,
            "done": progress.done,
            "total": progress.total,
            "fraction": round(progress.fraction, 4),
        }
        if self._progress != before:
            self._last_progress = time.monotonic()
        if before is None or before["phase"] != progress.phase:
            self._wake.set()

    def should_stop(self) -> bool:
        return self.stop is not None

    def require(self) -> None:
        """Raise LeaseLost when this attempt must not write any more."""
        if self.stop is Stop.LOST:
            raise LeaseLost(f"attempt {self._claim.attempt} of run {self._claim.run_id} was taken away")

    def _beat_on(self) -> None:
        while not self._done.is_set():
            answered = self._beat()
            if time.monotonic() - self._last_progress > self._settings.stall_s:
                self._halt(Stop.STALLED)
            self._end_hung_measurement()
            hurry = self.stop is not None or not answered
            self._wait(min(self._settings.heartbeat_s, 1.0) if hurry else self._settings.heartbeat_s)

    def _wait(self, pause: float) -> None:
        """Until the next beat is due; a new phase or a shutdown comes earlier."""
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0 and not self._done.is_set():
            if self._wake.wait(min(left, 0.5)):
                self._wake.clear()
                return
            if RELEASING.is_set() and self.stop is None:
                self._halt(Stop.RELEASED)
                return

    def _beat(self) -> bool:
        """One heartbeat; False when the database did not answer."""
        progress = self._progress
        try:
            with self._ledger.begin() as session:
                beat = runs.heartbeat(
                    session,
                    self._claim.run_id,
                    self._claim.attempt,
                    lease_s=self._settings.lease_s,
                    progress=progress,
                )
        except SpinalError as error:
            silent = time.monotonic() - self._last_beat
            log.warning("heartbeat failed", error=error.detail, silent_s=round(silent, 1))
            # The lease may be over without anyone having taken the run: the fence decides, when it can be asked.
            if silent > self._settings.outage_patience_s:
                self._halt(Stop.LOST)
            return False
        self._last_beat = time.monotonic()
        if not beat.alive and not self._done.is_set():
            self._halt(Stop.LOST)
            record_refusal(self._ledger, self._claim)
        elif beat.cancel_requested:
            self._halt(Stop.CANCELLED)
        return True

    def _halt(self, why: Stop) -> None:
        if self.stop is None:
            log.warning("stopping measurement", why=why.value)
            self.stop = why
            self._stop_since = time.monotonic()

    def _end_hung_measurement(self) -> None:
        """A kernel that does not return cannot be interrupted; the process around it can."""
        if self._stop_since is None or self._done.is_set():
            return
        if time.monotonic() - self._stop_since > ABANDON_AFTER_S:
            log.error("measurement did not stop, ending its process", after_s=ABANDON_AFTER_S)
            self._write_ending()
            os._exit(70)

    def _write_ending(self) -> None:
        try:
            with self._ledger.begin() as session:
                end_stopped(session, self._settings, self._claim, self.stop)
        except SpinalError as error:
            log.warning("ending left to the reaper", error=error.detail)


def end_stopped(session: Session, settings: Settings, claim: runs.Claim, why: Stop | None) -> None:
    """Write what became of an attempt that was told to stop; a lost one writes nothing."""
    if why is Stop.CANCELLED:
        runs.cancelled(session, claim.run_id, claim.attempt)
    elif why is Stop.RELEASED:
        runs.release(session, claim.run_id, claim.attempt)
    elif why is Stop.STALLED:
        stalled = RunStalled(
            f"attempt {claim.attempt} reported no progress for {settings.stall_s:g} s",
            hint="look at the device and the model store, or raise SPINAL_STALL_S",
        )
        runs.fail(
            session, claim.run_id, claim.attempt, stalled.to_problem(), retryable=True,
            max_attempts=settings.max_attempts, backoff_s=settings.backoff_s,
        )  # fmt: skip


def record_refusal(ledger: Ledger, claim: runs.Claim) -> None:
    """Log and count a write that came after the attempt had been taken away."""
    try:
        with ledger.begin() as session:
            if runs.record_refused_write(session, claim.run_id, claim.attempt):
                log.warning("zombie write refused", attempt=claim.attempt)
    except SpinalError as error:
        log.warning("refused write not counted", attempt=claim.attempt, error=error.detail)


def hand_back_lost(run_id: str, task_id: str) -> None:
    """Called in the parent when the child under ``task_id`` died: expire its lease and reap at once."""
    settings = get_settings()
    ledger = Ledger(settings)
    try:
        with ledger.begin() as session:
            if runs.expire_lease(session, UUID(run_id), worker_name(task_id)):
                log.warning("worker child died, run handed back", run_id=run_id)
        with ledger.begin() as session:
            runs.reap(session, max_attempts=settings.max_attempts, backoff_s=settings.backoff_s)
    except SpinalError as error:
        log.warning("hand-back left to the reaper", run_id=run_id, error=error.detail)
    finally:
        ledger.close()
