"""The parent process of a worker says that it is there: in the ledger, for callers and operators, and in a file, for
the probe of its own host. Nothing here keeps a run from its work, or the process from its end."""

import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from billiard import active_children
from celery import bootsteps
from kombu import Connection
from sqlalchemy.exc import SQLAlchemyError

from service.database.ids import new_id
from service.database.unit_of_work import Ledger, allow
from service.runs import workers
from service.settings import Settings
from spinal.errors import SpinalError
from spinal.version import VERSION
from worker.turns import Turns

log = structlog.get_logger(__name__)
TELL_LIMIT_S = 5.0
TURN_EVERY_S = 2.0
CHILDREN_LIMIT_S = 420.0
"""So long a worker may be without any child: one that begins is given 300 s, and then replaced."""
RECONNECT_S = 120.0
"""A broker that has answered others for so long should have been connected to; pauses between tries are 30 s."""
FAREWELL_S = 2.0
"""Seconds that the end of the process may wait for the ledger to hear of it."""
BROKER, CHILDREN, TELLING = "broker", "children", "presence"


class PresenceOfWorker:
    """What one worker tells from its start to its end."""

    def __init__(self, settings: Settings, name: str, queues: Callable[[], list[str]], children: int) -> None:
        self._settings = settings
        self._id, self._name = new_id(), name
        self._queues, self._children = queues, children
        self._leaving, self._left = threading.Event(), threading.Event()
        self._answers_since: float | None = None
        self._away = True
        limit_s = settings.alive_limit_s
        self.turns = Turns(
            "worker",
            {BROKER: limit_s, CHILDREN: CHILDREN_LIMIT_S + limit_s, TELLING: limit_s + settings.tell_alive_s},
        )
        self.broker_away()

    def begin(self) -> None:
        """Tell from now on, from threads of its own."""
        if self._settings.alive_dir is not None:
            self.turns.keep(self._settings.alive_dir)
        threading.Thread(target=self._tell_loop, daemon=True, name="presence").start()

    def leave(self) -> None:
        """No run is taken any more. Called in a signal's handler: it waits for nothing."""
        self._leaving.set()

    def end(self) -> None:
        """The process ends: its file goes, and the ledger gets a moment to hear of it."""
        self._leaving.set()
        self._left.wait(FAREWELL_S)
        self.turns.end()

    # what the main loop says

    def turn(self) -> None:
        """The main loop turns: it takes messages and replaces children."""
        self._away = False
        self.turns.turned(BROKER)
        if active_children():
            self.turns.turned(CHILDREN)
        else:
            self.turns.resume(CHILDREN)

    def broker_away(self) -> None:
        """The main loop waits for the broker, and does nothing else."""
        self._away, self._answers_since = True, None
        self.turns.suspend(BROKER, "the broker")
        self.turns.suspend(CHILDREN, "the broker")

    # what the ledger hears

    def _tell_loop(self) -> None:
        ledger = Ledger(self._settings)
        try:
            while not self._leaving.is_set():
                self.turns.turned(TELLING, waits_for=self._tell(ledger))
                self._look_at_broker()
                self._leaving.wait(self._settings.tell_alive_s)
            self._say_farewell(ledger)
        finally:
            self._left.set()
            ledger.close()
        # A process that ends in good order may take its time with what it still does.
        while True:
            self.turns.turned(TELLING)
            time.sleep(TURN_EVERY_S)

    def _tell(self, ledger: Ledger) -> str | None:
        """Say it once; what is away, if anything is."""
        present = workers.Presence(self._id, self._name, self._queues(), self._children, self._settings.device, VERSION)
        try:
            with ledger.begin() as session:
                allow(session, TELL_LIMIT_S)
                workers.tell(session, present)
        except (SpinalError, SQLAlchemyError) as error:
            # Not migrated, too: whatever it is, whoever reads the ledger sees this worker fall silent.
            log.warning("the ledger does not hear of this worker", error=str(error).splitlines()[0])
            return "the database"
        return None

    def _say_farewell(self, ledger: Ledger) -> None:
        try:
            with ledger.begin() as session:
                allow(session, TELL_LIMIT_S)
                workers.leave(session, self._id)
        except (SpinalError, SQLAlchemyError) as error:
            log.warning("the ledger does not hear that this worker leaves", error=str(error).splitlines()[0])

    def _look_at_broker(self) -> None:
        """A main loop that waits for a broker that has long been back waits for nothing: it stands still."""
        if not self._away:
            return
        now = time.monotonic()
        if not _answers(self._settings):
            self._answers_since = None
        elif self._answers_since is None:
            self._answers_since = now
        elif now - self._answers_since > RECONNECT_S and self._away:
            self.turns.resume(BROKER)


def _answers(settings: Settings) -> bool:
    timeout = settings.publish_timeout_s
    options = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "max_retries": 0}
    url = settings.broker_url.get_secret_value()
    try:
        with Connection(url, connect_timeout=timeout, transport_options=options) as broker:
            broker.connect()
    except Exception:  # noqa: BLE001  each broker has errors of its own
        return False
    return True


_present: PresenceOfWorker | None = None
"""That of this process, where it is the parent of a worker."""


def begin(settings: Settings, worker: Any) -> None:
    """``worker`` (Celery's) starts in this process."""
    global _present
    _present = PresenceOfWorker(
        settings, str(worker.hostname), lambda: sorted(worker.app.amqp.queues.consume_from), int(worker.concurrency)
    )
    _present.begin()


def leave() -> None:
    if _present is not None:
        _present.leave()


def end() -> None:
    if _present is not None:
        _present.end()


class TurnsOfMainLoop(bootsteps.StartStopStep):
    """While the broker is connected, the main loop of the parent says that it turns."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        if _present is not None:
            _present.turn()
            parent.timer.call_repeatedly(TURN_EVERY_S, _present.turn)

    def stop(self, parent: Any) -> None:
        if _present is not None:
            _present.broker_away()
