"""Rings workers for queued runs and takes back lost leases: ``python -m worker.dispatcher``. Any number of
copies may run."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
import structlog
from kombu import Connection
from kombu.exceptions import ChannelError, KombuError
from psycopg import sql
from psycopg.errors import UndefinedColumn, UndefinedTable
from redis.exceptions import RedisError
from sqlalchemy.exc import ProgrammingError

from service.database.connection import BoundedConnection
from service.database.ids import new_id
from service.database.sessions import require_sessions
from service.database.unit_of_work import Ledger
from service.deliveries.outbox import AT_ONCE, send_out
from service.operations.retention import take_retention_turn
from service.platform.addresses import broker, conninfo, direct_database_url
from service.platform.logs import configure_logs
from service.runs import rings, transitions
from service.runs.kinds import Attempts, attempts_of
from service.runs.settle import settle_overlooked
from service.runs.wake import CHANNEL
from service.series import store as series_store
from service.series.assessed import keep_assessed
from service.settings import Settings, one_line, settings_at_start
from spinal.errors import DatabaseUnavailable, NotReady, UsageError
from worker.celery_app import TASK, app
from worker.health import serve
from worker.metrics import DispatcherMetrics
from worker.turns import Turns

log = structlog.get_logger(__name__)
INSPECT_EVERY_S = 60.0
ASSESS_EVERY_S = 1.0
SEND_EVERY_S = 1.0
INSPECT_LIMIT_S, ASSESS_LIMIT_S = 1800.0, 900.0
"""How long one turn of these loops may take: a whole ledger is read, or the document of a long series is worked out."""
RINGER, REAPER, LISTENER, INSPECTOR, ASSESSOR = "ringer", "reaper", "listener", "inspector", "assessor"
RETENTION = "retention"
SENDER = "sender"
RETENTION_LOOKS_S = 60.0
"""Whether it is due is asked so often at least: whoever did it last may be gone."""
ASSESS_AGAIN_S = 60.0
"""So long a series whose document could not be made is left alone: the same would be met again, every second."""


@contextmanager
def _one_turn() -> Iterator[None]:
    """Nothing that one turn of a loop meets ends the loop: the database may be restarting, or not migrated yet, and a
    dispatcher that rings but no longer reaps would be worse than none."""
    try:
        yield
    except DatabaseUnavailable as error:
        log.warning("database unavailable", error=error.detail)
    except ProgrammingError as error:
        if isinstance(error.orig, UndefinedTable | UndefinedColumn):
            # Every second until somebody migrates it: one line each.
            log.error("database is not migrated", error=str(error.orig).splitlines()[0])
        else:
            log.exception("unexpected error")
    except Exception:
        log.exception("unexpected error")


class Dispatcher:
    """Loops apart from each other: ringing (woken by NOTIFY) and reaping (by the clock), so that a frozen broker never
    delays the second, keeping the documents of series, and deleting what need not be kept."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(settings)
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._broker: Connection | None = None
        self._metrics = DispatcherMetrics(self._ledger, [settings.trace_queue, settings.delivery_queue])
        limit_s = settings.alive_limit_s
        inspected = {} if settings.metrics_port is None else {INSPECTOR: INSPECT_LIMIT_S}
        self._turns = Turns(
            "dispatcher",
            dict.fromkeys((RINGER, REAPER, LISTENER, SENDER), limit_s + settings.dispatch_interval_s)
            | {ASSESSOR: ASSESS_LIMIT_S}
            | inspected,
        )
        self._not_before: dict[UUID, float] = {}
        self._id = new_id()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def close(self) -> None:
        self._ledger.close()

    def run(self) -> None:
        """Until :meth:`stop`."""
        self._serve()
        threads = [
            threading.Thread(target=loop, name=name, daemon=True)
            for name, loop in (
                (REAPER, self._reap_loop),
                (LISTENER, self._listen_loop),
                (INSPECTOR, self._inspect_loop),
                (ASSESSOR, self._assess_loop),
                (RETENTION, self._retention_loop),
                (SENDER, self._send_loop),
            )
        ]
        for thread in threads:
            thread.start()
        log.info("dispatching")
        while not self._stop.is_set():
            self._wake.clear()
            rung: bool | None = None
            with _one_turn():
                rung = self.ring()
            self._turns.turned(RINGER, waits_for="the broker" if rung is False else None)
            pause = self._settings.dispatch_interval_s
            self._wake.wait(pause if rung else max(pause, 1.0))
        self.close()
        self._turns.end()
        log.info("stopped")

    def _serve(self) -> None:
        """Say that it is alive, and tell metrics, where the settings ask for it."""
        settings = self._settings
        if settings.alive_dir is not None:
            self._turns.keep(settings.alive_dir)
        if settings.metrics_port is not None:
            serve(settings.metrics_host, settings.metrics_port, self._turns, self._metrics.registry)
        if settings.health_port not in (None, settings.metrics_port):
            serve(settings.metrics_host, int(settings.health_port or 0), self._turns, None)

    def ring(self) -> bool:
        """Ring for every due run; False when the broker did not take all messages."""
        again_s = self._settings.ring_again_s
        with self._ledger.read() as session:
            waiting = rings.unanswered(session, ring_again_s=again_s)
        try:
            lost = [queue for queue, rung in waiting.items() if self._doorbells(queue) < rung]
        except self._broker_errors() as error:
            self._lose_broker(error)
            return False
        while True:
            self._turns.turned(RINGER)
            with self._ledger.begin() as session:
                due = rings.due_runs(session, ring_again_s=again_s, again=lost)
            if not due:
                log.debug("looked for due runs")
                return True
            for index, run in enumerate(due):
                try:
                    self._publish(run)
                except self._broker_errors() as error:
                    self._lose_broker(error)
                    with self._ledger.begin() as session:
                        rings.mark_not_rung(session, [late.run_id for late in due[index:]])
                    return False
                if run.lag_s is not None:
                    self._metrics.ring_lag.observe(run.lag_s)
            log.info("rang", runs=len(due))

    def _doorbells(self, queue: str) -> int:
        """How many doorbells the broker still holds. While it holds as many as runs wait, every run has its own, and
        while it holds many, no worker lacks one: ringing again would only let a long queue grow without end."""
        channel: Any = self._connection().default_channel
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except ChannelError:
            return 0

    def _publish(self, run: rings.Due) -> None:
        broker = self._connection()
        app.send_task(TASK, args=[str(run.run_id)], queue=run.queue, connection=broker, retry=False)

    def _connection(self) -> Connection:
        if self._broker is None:
            timeout = self._settings.publish_timeout_s
            where = broker(
                self._settings,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry_on_timeout=False,
                max_retries=0,
            )
            self._broker = Connection(
                where.url, ssl=where.ssl, connect_timeout=timeout, transport_options=where.transport_options
            )
        return self._broker

    def _broker_errors(self) -> tuple[type[Exception], ...]:
        """The errors of whichever broker the URL names."""
        known = self._connection()
        return (OSError, RedisError, KombuError, *known.connection_errors, *known.channel_errors)

    def _lose_broker(self, error: Exception) -> None:
        self._metrics.publish_errors.inc()
        log.warning("broker unavailable", error=f"{type(error).__name__}: {error}")
        if self._broker is not None:
            self._broker.collect(socket_timeout=self._settings.publish_timeout_s)
            self._broker = None

    def reap(self) -> None:
        """Take back runs whose worker fell silent."""
        with self._ledger.begin() as session:
            orphans = transitions.fail_orphans(session)
        for run_id, state in orphans:
            log.warning("ended a run that could never start", run_id=str(run_id), state=state)
        while not self._stop.is_set():
            self._turns.turned(REAPER)
            with self._ledger.begin() as session:
                taken = transitions.reap_expired(session, attempts_of=self._attempts_of)
            if taken is None:
                break
            run_id, state = taken
            self._metrics.leases_expired.inc()
            log.warning("lease expired", run_id=str(run_id), state=state)
        # Last: whatever judging meets, silent workers have been seen to.
        with self._ledger.begin() as session:
            overlooked = settle_overlooked(session)
        for audit_id in overlooked:
            log.warning("settled an audit that the release before could not judge", audit_id=str(audit_id))

    def _attempts_of(self, kind: str) -> Attempts:
        """Lost runs have waited for a whole lease already: what is left of the backoff only spreads them out."""
        allowed = attempts_of(kind, self._settings)
        return replace(allowed, backoff_s=min(1.0, allowed.backoff_s))

    def _reap_loop(self) -> None:
        """When the database comes back, or this process comes up, workers that outlived its absence get to beat before
        they are judged."""
        grace = self._settings.heartbeat_s + 2.0
        grace_until = time.monotonic() + grace
        while not self._stop.wait(self._settings.dispatch_interval_s):
            answered = False
            with _one_turn():
                if time.monotonic() > grace_until:
                    self.reap()
                else:
                    self._ledger.ping()
                answered = True
            self._turns.turned(REAPER, waits_for=None if answered else "the database")
            if not answered:
                grace_until = time.monotonic() + grace

    def assess(self) -> None:
        """Work out the documents of series in which something has happened. Other copies may do the same: the one that
        knows more is kept."""
        with self._ledger.read() as session:
            stale = series_store.stale_series(session)
        now = time.monotonic()
        self._not_before = {each: when for each, when in self._not_before.items() if when > now}
        for series_id, tenant in stale:
            if self._stop.is_set():
                return
            if series_id not in self._not_before:
                with _one_turn():
                    self._assess_one(tenant, series_id)
                self._turns.turned(ASSESSOR)

    def _assess_one(self, tenant: str, series_id: UUID) -> None:
        """Raises DatabaseUnavailable; whatever else its document meets is told, and the series waits."""
        try:
            if keep_assessed(self._ledger, tenant, series_id):
                log.info("assessed", series_id=str(series_id))
        except DatabaseUnavailable:
            raise
        except NotReady as error:
            self._not_before[series_id] = time.monotonic() + ASSESS_AGAIN_S
            log.warning("not assessed", series_id=str(series_id), error=error.detail)
        except Exception:
            self._not_before[series_id] = time.monotonic() + ASSESS_AGAIN_S
            log.exception("not assessed", series_id=str(series_id))

    def _assess_loop(self) -> None:
        """Apart from the other loops: judging a long series takes seconds, in which workers are rung and reaped."""
        while not self._stop.wait(max(self._settings.dispatch_interval_s, ASSESS_EVERY_S)):
            with _one_turn():
                self.assess()
            self._turns.turned(ASSESSOR)

    def send_out(self) -> None:
        """Make the deliveries of what has happened."""
        while send_out(self._ledger, self._settings) == AT_ONCE and not self._stop.is_set():
            self._turns.turned(SENDER)

    def _send_loop(self) -> None:
        """Apart from the other loops: who wants to be told of a flood of events is asked for each."""
        while not self._stop.wait(min(self._settings.dispatch_interval_s, SEND_EVERY_S)):
            with _one_turn():
                self.send_out()
            self._turns.turned(SENDER)

    def retain(self) -> None:
        """Delete what need not be kept any longer, where that is due and no other copy is at it."""
        gone = take_retention_turn(self._ledger, self._settings, self._id, stopped=self._stop.is_set)
        if gone is not None:
            log.info("deleted what can be made again", **gone)

    def _retention_loop(self) -> None:
        """Apart from the other loops: deleting captures from a slow store takes as long as it takes."""
        while not self._stop.wait(min(self._settings.retention_every_s, RETENTION_LOOKS_S)):
            with _one_turn():
                self.retain()

    def _inspect_loop(self) -> None:
        """Check the invariants where somebody reads what they say."""
        while self._settings.metrics_port is not None:
            with _one_turn():
                self._metrics.inspect()
            self._turns.turned(INSPECTOR)
            if self._stop.wait(INSPECT_EVERY_S):
                return

    def _listen_loop(self) -> None:
        address = conninfo(direct_database_url(self._settings))
        while not self._stop.is_set():
            try:
                with BoundedConnection.connect(address, autocommit=True, connect_timeout=3) as connection:
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self._wake.set()
                    while not self._stop.is_set():
                        for _ in connection.notifies(timeout=5.0, stop_after=1):
                            self._wake.set()
                        connection.execute("SELECT 1")
                        self._turns.turned(LISTENER)
            except psycopg.Error as error:
                # The clock still wakes the ringing loop; only its promptness depends on listening.
                log.warning("not listening", error=type(error).__name__)
                self._turns.turned(LISTENER, waits_for="the database")
                self._stop.wait(1.0)


def main() -> int:
    settings = settings_at_start()
    configure_logs(settings)
    try:
        require_sessions(settings)
    except UsageError as error:
        sys.exit(one_line(error))
    dispatcher = Dispatcher(settings)

    def stop(_number: int, _frame: Any) -> None:
        dispatcher.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    dispatcher.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
