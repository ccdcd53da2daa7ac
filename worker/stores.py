"""What a worker does about scratch folders, artifact stores and devices that cannot be used: it waits, it does not
claim, and it never charges a run."""

import contextvars
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.exc import ProgrammingError

from service.database.unit_of_work import Ledger
from service.operations.own_store import require_own_store
from service.platform.artifacts import ArtifactStore
from service.runs import rings
from service.settings import Settings
from spinal.engine_port import ENGINE
from spinal.errors import (
    Cancelled,
    DatabaseUnavailable,
    DeviceFailed,
    SpinalError,
    StorageRefused,
    StorageUnavailable,
)
from spinal.errors.faults import reason
from worker.lease import RELEASING

log = structlog.get_logger(__name__)
Found = TypeVar("Found")
LOOK_EVERY_S = 0.1
TRY_AGAIN_AFTER_S = 1.0
LONGEST_PAUSE_S = 30.0
"""Between two looks at what could not be used."""


class Aside(Generic[Found]):
    """``call()`` in a thread of its own, so that whoever waits for it can stop waiting at once. What it brings after
    that is given to ``dispose``."""

    def __init__(self, call: Callable[[], Found], dispose: Callable[[Found], None]) -> None:
        self._call = call
        self._dispose = dispose
        self._lock = threading.Lock()
        self._left = False
        self._found: list[Found] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), daemon=True, name="store"
        )

    def _work(self) -> None:
        try:
            found = self._call()
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            self._error = error
            return
        with self._lock:
            if not self._left:
                self._found.append(found)
                return
        self._dispose(found)

    def wait(self, stopped: Callable[[], bool]) -> Found:
        """What the call returns or raises; Cancelled once ``stopped()``."""
        self._thread.start()
        while self._thread.is_alive():
            self._thread.join(LOOK_EVERY_S)
            if stopped():
                with self._lock:
                    self._left = not self._found
                if self._left and self._error is None:
                    raise Cancelled("told to stop while waiting for storage")
        if self._error is not None:
            raise self._error
        return self._found[0]


def through_outages(
    call: Callable[[], Found],
    *,
    stopped: Callable[[], bool],
    patient: Callable[[float], bool],
    waiting: Callable[[int], None],
    dispose: Callable[[Found], None] = lambda _found: None,
) -> Found:
    """``call()``, again and again while the store cannot be used and ``patient(since)``; then its StorageUnavailable.
    Raises Cancelled once ``stopped()``. ``waiting`` is told the number of each try that failed."""
    failing_since, tries = None, 0
    while True:
        try:
            return Aside(call, dispose).wait(stopped)
        except StorageUnavailable as error:
            failing_since, tries = failing_since or time.monotonic(), tries + 1
            if not patient(failing_since):
                raise
            log.warning("waiting for storage", code=error.code, error=error.detail, tries=tries)
            waiting(tries)
        until = time.monotonic() + TRY_AGAIN_AFTER_S
        while time.monotonic() < until:
            if stopped():
                raise Cancelled("told to stop while waiting for storage")
            time.sleep(LOOK_EVERY_S)


class Gate:
    """Whether this process may take a run: not while it knows that its scratch folder or the store cannot be used.
    Kinds that measure need both. Deliveries need neither, and wait with them: what is claimed behind the gate may be
    any run of the queue that was rung for."""

    def __init__(self) -> None:
        self._good_until = 0.0
        self._good_for: Settings | None = None

    def doubt(self) -> None:
        """Something failed: look again before the next run is taken."""
        self._good_until = 0.0

    def wait(self, ledger: Ledger, settings: Settings, rung: UUID) -> bool:
        """Return True once both can be used, at once where they were a moment ago; False when the process is to leave.

        While it waits it holds one doorbell, which it gives back: the dispatcher rings again, for whoever can do the
        work. It takes no other, so that one broken worker keeps no more than itself from working.
        """
        pause_s, given_back = TRY_AGAIN_AFTER_S, False
        while time.monotonic() >= self._good_until or self._good_for != settings:
            try:
                Aside(lambda: look(ledger, settings), lambda _: None).wait(RELEASING.is_set)
                self._good_until = time.monotonic() + max(settings.artifact_check_s, TRY_AGAIN_AFTER_S)
                self._good_for = settings
            except (DatabaseUnavailable, ProgrammingError):
                # Of the database: claiming meets it, too, and has its own patience with it.
                return True
            except Cancelled:
                return False
            except StorageUnavailable as error:
                log.error("taking no runs", code=error.code, why=error.detail, hint=error.hint, again_s=pause_s)
                given_back = given_back or give_back(ledger, rung)
                if RELEASING.wait(pause_s):
                    return False
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if given_back:
            log.info("taking runs again")
        return True


def look(ledger: Ledger, settings: Settings) -> None:
    """Raise StorageUnavailable or StorageRefused where this worker's scratch folder or its store cannot be used, or the
    store is that of another installation."""
    artifacts = ArtifactStore(settings)
    require_own_store(ledger, artifacts, adopt=True)
    artifacts.probe()


def look_at_start(settings: Settings) -> str | None:
    """Why a worker must not start: what somebody has to set right. An outage is none of that: it may end."""
    ledger = Ledger(settings)
    try:
        look(ledger, settings)
    except StorageRefused as error:
        return f"{error.detail}; {error.hint}" if error.hint else error.detail
    except ProgrammingError:
        log.warning("starting, and the database is not migrated")
    except SpinalError as error:
        log.warning("starting, and taking no runs until it is mended", code=error.code, why=error.detail)
    finally:
        ledger.close()
    return None


def device_problem(settings: Settings) -> DeviceFailed | None:
    """Why this process cannot measure: a device that has failed fails the next run, too. A fresh process may find it
    again."""
    if settings.device == "cpu" or settings.engine != ENGINE:
        return None
    from spinal.engine.devices import check_device

    try:
        check_device(settings.device)
    except Exception as error:  # noqa: BLE001  whatever torch and its driver raise
        return DeviceFailed(f"the device of this worker cannot be used ({reason(error)})")
    return None


def give_back(ledger: Ledger, rung: UUID) -> bool:
    """Have the dispatcher ring for the run again; False where the database does not answer."""
    try:
        with ledger.begin() as session:
            rings.mark_not_rung(session, [rung])
    except DatabaseUnavailable:
        return False
    return True
