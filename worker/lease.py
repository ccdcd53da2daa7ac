"""A worker's hold on one attempt: heartbeat, progress, cancellation, and the end of a hung one.

Two threads. One beats, and may wait for the database; the other watches and waits for nothing, so that a database that
does not answer delays neither a shutdown nor the end of a measurement that does not stop. Behind both stands a timer
outside the interpreter, for native code that never lets go of it.
"""

import contextvars
import faulthandler
import os
import socket
import sys
import threading
import time
from enum import StrEnum
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger, allow
from service.runs import transitions
from service.runs.kinds import attempts_of
from service.settings import Settings, get_settings
from spinal.errors import RunStalled, SpinalError
from spinal.progress import Progress

log = structlog.get_logger(__name__)
ABANDON_AFTER_S = 6.0
"""Seconds a measurement may go on after it was told to stop; then its process is ended."""
WATCH_EVERY_S = 0.25
ENDING_LIMIT_S = 3.0
"""Seconds that writing the end of an abandoned attempt may take before its process goes anyway."""
REARM_EVERY_S = 2.0
BEAT_LIMIT_S = 5.0
"""A heartbeat that takes longer is given up and tried again: it also brings the news of a cancellation."""
RELEASE_PATIENCE_S = 10.0
"""Seconds a process that is asked to leave waits for the database to take the end of its attempt."""
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
    """Context around one claimed attempt, from its claim to its last write. Beats every ``heartbeat_s`` (and at once on
    the first progress of a phase); :meth:`should_stop` is the measurement's cancel check."""

    def __init__(self, ledger: Ledger, settings: Settings, claim: transitions.Claim) -> None:
        self._ledger = ledger
        self._settings = settings
        self._claim = claim
        self._progress: dict[str, Any] | None = None
        self._wake = threading.Event()
        self._done = threading.Event()
        self._working = True
        self._leaving_since: float | None = None
        self._last_beat = self._last_progress = time.monotonic()
        self._stop_since: float | None = None
        self.stop: Stop | None = None
        # In copies of this context: the ids bound to the log are on the threads' lines, too.
        self._beating, self._watching = (
            threading.Thread(
                target=contextvars.copy_context().run, args=(loop,), daemon=True, name=f"{name}-{claim.run_id}"
            )
            for name, loop in (("beat", self._beat_loop), ("watch", self._watch_loop))
        )

    def __enter__(self) -> Self:
        # Before anything of the measurement runs: it may be what never lets go.
        self._rearm()
        self._beating.start()
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._wake.set()
        self._watching.join()
        # A beat that waits for the database ends by itself and finds its attempt ended: nothing has to wait for it.
        self._beating.join(WATCH_EVERY_S)
        faulthandler.cancel_dump_traceback_later()

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

    def work_done(self) -> None:
        """The work has returned: from now on there is nothing to stop, only an end to write."""
        self._working = False

    def patient(self, failing_since: float) -> bool:
        """Whether to go on trying what the database has refused to do since then."""
        if self.stop is Stop.CANCELLED:
            return False
        now = time.monotonic()
        if RELEASING.is_set():
            self._leaving_since = self._leaving_since or now
            return now - self._leaving_since < RELEASE_PATIENCE_S
        return now - failing_since < self._settings.outage_patience_s

    def _silent_s(self) -> float:
        return time.monotonic() - self._last_beat

    # beating

    def _beat_loop(self) -> None:
        while not self._done.is_set() and self.stop is not Stop.LOST:
            try:
                answered = self._beat()
            except Exception:
                log.exception("heartbeat failed unexpectedly")
                answered = False
            hurry = self.stop is not None or not answered
            self._wake.wait(min(self._settings.heartbeat_s, 1.0) if hurry else self._settings.heartbeat_s)
            self._wake.clear()

    def _beat(self) -> bool:
        """One heartbeat; False when the database did not answer."""
        progress = self._progress
        try:
            with self._ledger.begin() as session:
                allow(session, BEAT_LIMIT_S)
                beat = transitions.heartbeat(
                    session,
                    self._claim.run_id,
                    self._claim.attempt,
                    lease_s=self._settings.lease_s,
                    progress=progress,
                )
        except SpinalError as error:
            # The lease may be over without anyone having taken the run: the fence decides, when it can be asked.
            log.warning("heartbeat failed", error=error.detail, silent_s=round(self._silent_s(), 1))
            return False
        self._last_beat = time.monotonic()
        if not beat.alive:
            # While the end is being written the fence has the say; after it, this is the end's own doing.
            if self._working and not self._done.is_set():
                self._halt(Stop.LOST)
                record_refusal(self._ledger, self._claim, beat=True)
        elif beat.cancel_requested:
            self._halt(Stop.CANCELLED)
        return True

    # watching

    def _watch_loop(self) -> None:
        while not self._done.wait(WATCH_EVERY_S):
            now = time.monotonic()
            if now - self._armed > REARM_EVERY_S:
                self._rearm()
            if not self._working:
                continue
            if self.stop is None and (why := self._reason_to_stop(now)) is not None:
                self._halt(why)
            if self._stop_since is not None and now - self._stop_since > ABANDON_AFTER_S:
                self._abandon()

    def _rearm(self) -> None:
        """End this process unless called again in time, by a timer in C: it needs no interpreter lock, so it also ends
        a process whose native code never gives that back."""
        # Not sys.stderr: Celery puts an object without a file descriptor there.
        faulthandler.dump_traceback_later(self._settings.stuck_s, exit=True, file=sys.__stderr__ or 2)
        self._armed = time.monotonic()

    def _reason_to_stop(self, now: float) -> Stop | None:
        if RELEASING.is_set():
            return Stop.RELEASED
        if now - self._last_progress > self._settings.stall_s:
            return Stop.STALLED
        if now - self._last_beat > self._settings.outage_patience_s:
            return Stop.LOST
        return None

    def _halt(self, why: Stop) -> None:
        if self.stop is None:
            log.warning("stopping measurement", why=why.value)
            self._stop_since = time.monotonic()
            self.stop = why
            self._wake.set()

    def _abandon(self) -> None:
        """A kernel that does not return cannot be interrupted; the process around it can."""
        log.error("measurement did not stop, ending its process", after_s=ABANDON_AFTER_S)
        writing = threading.Thread(target=contextvars.copy_context().run, args=(self._write_ending,), daemon=True)
        writing.start()
        writing.join(ENDING_LIMIT_S)
        os._exit(70)

    def _write_ending(self) -> None:
        try:
            with self._ledger.begin() as session:
                end_stopped(session, self._settings, self._claim, self.stop)
        except SpinalError as error:
            log.warning("ending left to the reaper", error=error.detail)


def end_stopped(session: Session, settings: Settings, claim: transitions.Claim, why: Stop | None) -> None:
    """Write what became of an attempt that was told to stop; a lost one writes nothing."""
    if why is Stop.CANCELLED:
        transitions.cancelled(session, claim.run_id, claim.attempt)
    elif why is Stop.RELEASED:
        transitions.release(session, claim.run_id, claim.attempt)
    elif why is Stop.STALLED:
        stalled = RunStalled(
            f"attempt {claim.attempt} reported no progress for {settings.stall_s:g} s",
            hint="look at the device and the model store, or raise SPINAL_STALL_S",
        )
        allowed = attempts_of(claim.kind, settings)
        transitions.fail(
            session, claim.run_id, claim.attempt, stalled.to_problem(), retryable=True,
            max_attempts=allowed.most, backoff_s=allowed.backoff_s,
        )  # fmt: skip


def record_refusal(ledger: Ledger, claim: transitions.Claim, *, beat: bool = False) -> None:
    """Log and count a write (or a heartbeat) that came after the attempt had been taken away."""
    try:
        with ledger.begin() as session:
            if transitions.record_refusal(session, claim.run_id, claim.attempt, beat=beat):
                log.warning("zombie heartbeat refused" if beat else "zombie write refused", attempt=claim.attempt)
    except SpinalError as error:
        log.warning("refused write not counted", attempt=claim.attempt, error=error.detail)


def hand_back_lost(task_id: str) -> None:
    """Called in the parent when the child under ``task_id`` died: take back its run, and no other. Whether other
    workers are silent because they are gone or because the database was is the dispatcher's to judge."""
    settings = get_settings()
    ledger = Ledger(settings)
    try:
        with ledger.begin() as session:
            run: UUID | None = transitions.expire_lease(session, worker_name(task_id))
        if run is not None:
            log.warning("worker child died, run handed back", run_id=str(run))
            with ledger.begin() as session:
                transitions.reap_expired(session, attempts_of=lambda kind: attempts_of(kind, settings), only=run)
    except SpinalError as error:
        log.warning("hand-back left to the reaper", task_id=task_id, error=error.detail)
    finally:
        ledger.close()
