"""``/metrics`` of the dispatcher: the ledger's state, read when Prometheus asks, and what ringing met."""

import threading
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.ledger.invariants import INVARIANTS, violations
from service.ledger.unit_of_work import Ledger
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

OLDEST_DUE = """SELECT COALESCE(EXTRACT(epoch FROM max(now() - GREATEST(created_at, not_before))), 0) FROM runs
                WHERE state = 'QUEUED' AND not_before <= now() AND NOT EXISTS (
                  SELECT 1 FROM run_dependencies d JOIN runs n ON n.id = d.depends_on
                  WHERE d.run_id = runs.id AND n.state <> 'SUCCEEDED')"""
ATTEMPTS = """SELECT r.kind, a.outcome, count(*) AS n,
                CAST(sum(EXTRACT(epoch FROM a.ended_at - a.started_at)) AS float8) AS seconds
              FROM run_attempts a JOIN runs r ON r.id = a.run_id WHERE a.outcome IS NOT NULL GROUP BY 1, 2"""
CHECK_EVERY_S = 60.0
RECENT_TRACES_S = 3600.0
"""Digests are recomputed only for traces stored lately; ``python -m service.doctor`` recomputes all."""
EXPIRED = "SELECT count(*) FROM runs WHERE state = 'RUNNING' AND lease_until <= now()"


class DispatcherMetrics:
    """Counters of one dispatcher and the registry that is served with them."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = CollectorRegistry()
        self.publish_errors = Counter(
            "spinal_publish_errors", "Doorbells the broker did not take", registry=self.registry
        )
        self.leases_expired = Counter(
            "spinal_leases_expired", "Runs taken back from silent workers", registry=self.registry
        )
        self.ring_lag = Histogram(
            "spinal_ring_lag_seconds",
            "From the moment a run could start to its first doorbell",
            buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.registry.register(LedgerCollector(ledger))

    def serve(self, settings: Settings) -> None:
        """Serve ``/metrics`` where the settings ask for it."""
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=self.registry)


class LedgerCollector(Collector):
    """Gauges from the rows. A database that does not answer shows as ``spinal_database_up 0``, not as an error."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        self._checked: float | None = None
        self._broken: dict[str, int] = {}

    def describe(self) -> list[Metric]:
        """Nothing ahead of the first scrape: registering must not touch the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._ledger.read() as session:
                found = [*_from_rows(session), self._invariants(session)]
        except (DatabaseUnavailable, SQLAlchemyError):
            yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=0)
            return
        yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=1)
        yield from found

    def _invariants(self, session: Session) -> GaugeMetricFamily:
        """Checked at most every CHECK_EVERY_S, however often and by how many Prometheus asks."""
        with self._lock:
            if self._checked is None or time.monotonic() - self._checked > CHECK_EVERY_S:
                broken = violations(session, traces_of_last_s=RECENT_TRACES_S)
                self._broken = {name: len(broken.get(name, [])) for name in {*INVARIANTS, *broken}}
                self._checked = time.monotonic()
            broken_now = dict(self._broken)
        offenders = GaugeMetricFamily(
            "spinal_invariant_violations", "Offending rows by invariant", labels=["invariant"]
        )
        for name, count in broken_now.items():
            offenders.add_metric([name], count)
        return offenders


def _from_rows(session: Session) -> Iterator[Metric]:
    states = GaugeMetricFamily("spinal_runs", "Runs by state", labels=["state"])
    for row in session.execute(text("SELECT state, count(*) AS n FROM runs GROUP BY state")):
        states.add_metric([row.state], row.n)
    yield states
    oldest = float(session.execute(text(OLDEST_DUE)).scalar_one())
    yield GaugeMetricFamily("spinal_oldest_due_run_seconds", "Age of the oldest run that could start", value=oldest)
    expired = int(session.execute(text(EXPIRED)).scalar_one())
    yield GaugeMetricFamily("spinal_expired_leases", "Running runs whose lease is over", value=expired)
    attempts = CounterMetricFamily("spinal_attempts", "Attempts by outcome", labels=["kind", "outcome"])
    seconds = SummaryMetricFamily("spinal_attempt_seconds", "Seconds of ended attempts", labels=["kind", "outcome"])
    for row in session.execute(text(ATTEMPTS)):
        attempts.add_metric([row.kind, row.outcome], row.n)
        seconds.add_metric([row.kind, row.outcome], row.n, row.seconds)
    yield attempts
    yield seconds
    refused = int(session.execute(text("SELECT COALESCE(sum(refused_writes), 0) FROM run_attempts")).scalar_one())
    yield CounterMetricFamily("spinal_zombie_writes_refused", "Writes of attempts taken away before", value=refused)
