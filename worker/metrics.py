"""``/metrics`` of the dispatcher: the ledger's state, read when Prometheus asks, and what ringing met."""

from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger, allow
from service.operations.invariants import INVARIANTS, RECOMPUTED, violations
from service.runs.lifecycle import State
from service.runs.rings import DUE_SINCE
from service.runs.transitions import NO_OPEN_DEPENDENCY
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

OLDEST_DUE = f"""SELECT COALESCE(EXTRACT(epoch FROM max(now() - {DUE_SINCE})), 0) FROM runs
                 WHERE state = 'QUEUED' AND not_before <= now() AND {NO_OPEN_DEPENDENCY}"""  # noqa: S608  constants
ATTEMPTS = """SELECT r.kind, a.outcome, count(*) AS n,
                CAST(sum(EXTRACT(epoch FROM a.ended_at - a.started_at)) AS float8) AS seconds
              FROM run_attempts a JOIN runs r ON r.id = a.run_id WHERE a.outcome IS NOT NULL GROUP BY 1, 2"""
REFUSED = """SELECT CAST(COALESCE(sum(refused_writes), 0) AS bigint) AS ends,
               CAST(COALESCE(sum(refused_beats), 0) AS bigint) AS beats FROM run_attempts"""
RECENT_TRACES_S = 3600.0
"""Digests are recomputed only for traces stored lately; ``spinal doctor`` recomputes all."""
INSPECTION_LIMIT_S = 60.0
"""Reading a whole ledger may take longer than any other statement may."""
EXPIRED = "SELECT count(*) FROM runs WHERE state = 'RUNNING' AND lease_until <= now()"


class DispatcherMetrics:
    """Counters of one dispatcher and the registry that is served with them."""

    def __init__(self, ledger: Ledger) -> None:
        self.registry = CollectorRegistry()
        self.publish_errors = Counter(
            "spinal_publish_errors", "Times the broker failed while it was rung", registry=self.registry
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
        self._collector = LedgerCollector(ledger)
        self.registry.register(self._collector)

    def inspect(self) -> None:
        self._collector.inspect()


class LedgerCollector(Collector):
    """Gauges from the rows. A database that does not answer shows as ``spinal_database_up 0``, not as an error."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._broken: dict[str, int] = {}

    def describe(self) -> list[Metric]:
        """Nothing ahead of the first scrape: registering must not touch the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._ledger.read() as session:
                found = list(_from_rows(session))
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            if isinstance(error, SQLAlchemyError):
                # It answers, and not with what was asked: the gauge alone would send people to look at the network.
                log.warning("no gauges of the ledger", exc_info=error)
            yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=0)
            return
        yield GaugeMetricFamily("spinal_database_up", "Whether the ledger answers", value=1)
        yield from found
        yield self._invariants()

    def inspect(self) -> None:
        """Check the invariants; what is found is told until the next time. Apart from telling: it may take long."""
        self._broken = {}
        with self._ledger.read() as session:
            allow(session, INSPECTION_LIMIT_S)
            broken = violations(session, traces_of_last_s=RECENT_TRACES_S)
        self._broken = {name: len(broken.get(name, [])) for name in (*INVARIANTS, *RECOMPUTED)}

    def _invariants(self) -> GaugeMetricFamily:
        """Without values when the last inspection failed, or there was none yet."""
        offenders = GaugeMetricFamily(
            "spinal_invariant_violations", "Offending rows by invariant", labels=["invariant"]
        )
        for name, count in self._broken.items():
            offenders.add_metric([name], count)
        return offenders


def _from_rows(session: Session) -> Iterator[Metric]:
    states = GaugeMetricFamily("spinal_runs", "Runs by state", labels=["state"])
    counts = {row.state: row.n for row in session.execute(text("SELECT state, count(*) AS n FROM runs GROUP BY state"))}
    for state in State:
        states.add_metric([state.value], counts.get(state.value, 0))
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
    refused = CounterMetricFamily(
        "spinal_zombie_writes_refused", "Writes of attempts that had been taken away", labels=["write"]
    )
    row = session.execute(text(REFUSED)).one()
    refused.add_metric(["end"], row.ends)
    refused.add_metric(["heartbeat"], row.beats)
    yield refused
