"""``/metrics`` of the dispatcher: the ledger's state, read when Prometheus asks, and what ringing met."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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
        self.registry.register(LedgerCollector(ledger))

    def serve(self, settings: Settings) -> None:
        """Serve ``/metrics`` where the settings ask for it."""
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port, addr=settings.metrics_host, registry=self.registry)


class LedgerCollector(Collector):
    """Gauges from the rows. A database that does not answer shows as ``spinal_database_up 0``, not as an error."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def describe(self) -> list[Metric]:
        """Nothing ahead of the first scrape: registering must not touch the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._ledger.read() as session:
                found = list(_from_rows(session))
        except (DatabaseUnavailable, SQLAlchemyError):
            yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=0)
            return
        yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=1)
        yield from found


def _from_rows(session: Session) -> Iterator[Metric]:
    states = GaugeMetricFamily("spinal_runs", "Runs by state", labels=["state"])
    for row in session.execute(text("SELECT state, count(*) AS n FROM runs GROUP BY state")):
        states.add_metric([row.state], row.n)
    yield states
    oldest = float(session.execute(text(OLDEST_DUE)).scalar_one())
    yield GaugeMetricFamily("spinal_oldest_due_run_seconds", "Age of the oldest run that could start", value=oldest)
    expired = int(session.execute(text(EXPIRED)).scalar_one())
    yield GaugeMetricFamily("spinal_expired_leases", "Running runs whose lease is over", value=expired)
    attempts = CounterMetricFamily("spinal_attempts", "Attempts by outcome", labels=["outcome"])
    query = "SELECT outcome, count(*) AS n FROM run_attempts WHERE outcome IS NOT NULL GROUP BY outcome"
    for row in session.execute(text(query)):
        attempts.add_metric([row.outcome], row.n)
    yield attempts
    broken = violations(session)
    offenders = GaugeMetricFamily("spinal_invariant_violations", "Offending rows by invariant", labels=["invariant"])
    for name in {*INVARIANTS, *broken}:
        offenders.add_metric([name], len(broken.get(name, [])))
    yield offenders
