"""``/metrics`` of the dispatcher: the ledger's state, read when Prometheus asks, and what ringing met."""

from collections import Counter as Counts
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.database.run_tables import IN_LINE
from service.database.unit_of_work import Ledger, allow
from service.operations.invariants import INVARIANTS, RECOMPUTED, violations
from service.runs.lifecycle import TERMINAL
from service.runs.rings import DUE_SINCE
from service.runs.workers import SILENT_S
from service.traces.store import measured_again
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

WAITING = """SELECT queue, count(*) AS n FROM runs WHERE state = 'QUEUED' GROUP BY queue"""
RUNNING = """SELECT queue, count(*) AS n, count(*) FILTER (WHERE lease_until <= now()) AS expired
             FROM runs WHERE state = 'RUNNING' GROUP BY queue"""
DUE = f"SELECT queue, count(*) AS n FROM runs WHERE {IN_LINE} AND not_before <= now() GROUP BY queue"  # noqa: S608  a constant
FIRST_ACCEPTED = 1000
"""Of so many due runs of a queue, those accepted first, the oldest is looked for: it is one of them unless as many wait
for it to be their turn that were accepted before it could start."""
OLDEST_DUE = f"""WITH RECURSIVE queues AS (
      (SELECT queue FROM runs WHERE {IN_LINE} ORDER BY queue LIMIT 1)
      UNION ALL
      SELECT f.queue FROM queues q CROSS JOIN LATERAL (
        SELECT queue FROM runs WHERE {IN_LINE} AND queue > q.queue ORDER BY queue LIMIT 1) f)
    SELECT q.queue, CAST(EXTRACT(epoch FROM now() - o.since) AS float8) AS seconds
    FROM queues q CROSS JOIN LATERAL (
      SELECT min({DUE_SINCE}) AS since FROM (
        SELECT * FROM runs WHERE {IN_LINE} AND queue = q.queue AND not_before <= now()
        ORDER BY queue, created_at LIMIT {FIRST_ACCEPTED}) runs) o WHERE o.since IS NOT NULL"""  # noqa: S608  constants
WORKERS = """SELECT q.queue, count(*) AS n, CAST(sum(w.children) AS bigint) AS children
             FROM workers w CROSS JOIN LATERAL jsonb_array_elements_text(w.queues) AS q(queue)
             WHERE w.seen_at > now() - make_interval(secs => :silent) GROUP BY q.queue"""
HORIZON = """SELECT now() - make_interval(secs => :settled) AS horizon"""
ENDED = """SELECT state, queue, count(*) AS n FROM runs
           WHERE finished_at > :since AND finished_at <= :until GROUP BY state, queue"""
ATTEMPTS = """SELECT r.kind, a.outcome, count(*) AS n,
                CAST(sum(EXTRACT(epoch FROM a.ended_at - a.started_at)) AS float8) AS seconds
              FROM run_attempts a JOIN runs r ON r.id = a.run_id
              WHERE a.ended_at > :since AND a.ended_at <= :until GROUP BY r.kind, a.outcome"""
REFUSED = """SELECT CAST(COALESCE(sum(refused_writes), 0) AS bigint) AS ends,
               CAST(COALESCE(sum(refused_beats), 0) AS bigint) AS beats
             FROM run_attempts WHERE refused_writes > 0 OR refused_beats > 0"""
SETTLED_S = 600.0
"""What ended longer ago is counted once: no transaction goes on for so long that something could still appear there."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
ENDLESS = datetime(9999, 1, 1, tzinfo=UTC)
RECENT_TRACES_S = 3600.0
"""Digests are recomputed only for traces stored lately; ``spinal doctor`` recomputes all."""
INSPECTION_LIMIT_S = 60.0
"""Reading a whole ledger may take longer than any other statement may."""


class DispatcherMetrics:
    """Counters of one dispatcher and the registry that is served with them."""

    def __init__(self, ledger: Ledger, queues: Sequence[str] = ()) -> None:
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
        self._collector = LedgerCollector(ledger, queues)
        self.registry.register(self._collector)

    def inspect(self) -> None:
        self._collector.inspect()


class LedgerCollector(Collector):
    """Gauges from the rows. A database that does not answer shows as ``spinal_database_up 0``, not as an error."""

    def __init__(self, ledger: Ledger, queues: Sequence[str] = ()) -> None:
        """``queues`` are told of while nothing waits in them, too."""
        self._ledger = ledger
        self._queues = frozenset(queues)
        self._broken: dict[str, int] = {}
        self._ended: Ended | None = None

    def describe(self) -> list[Metric]:
        """Nothing ahead of the first scrape: registering must not touch the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        try:
            with self._ledger.read() as session:
                found = list(_from_rows(session, self._queues, self._ended))
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
            self._ended = (self._ended or Ended()).advanced(session)
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


@dataclass(frozen=True)
class Ended:
    """Everything that had ended by some time, which never changes: counted once, so that a scrape reads only what has
    ended since."""

    until: datetime = BEGINNING
    runs: Counts = field(default_factory=Counts)
    """(state, queue) -> number."""
    attempts: Counts = field(default_factory=Counts)
    """(kind, outcome) -> number."""
    seconds: Counts = field(default_factory=Counts)
    """(kind, outcome) -> seconds in all."""

    def advanced(self, session: Session) -> "Ended":
        """With what has ended meanwhile, as far as it is certain."""
        horizon = session.execute(text(HORIZON), {"settled": SETTLED_S}).scalar_one()
        return self if horizon <= self.until else self.with_later(session, until=horizon)

    def with_later(self, session: Session, until: datetime = ENDLESS) -> "Ended":
        """With what has ended after that."""
        between = {"since": self.until, "until": until}
        runs, attempts, seconds = Counts(self.runs), Counts(self.attempts), Counts(self.seconds)
        for row in session.execute(text(ENDED), between):
            runs[row.state, row.queue] += row.n
        for row in session.execute(text(ATTEMPTS), between):
            attempts[row.kind, row.outcome] += row.n
            seconds[row.kind, row.outcome] += row.seconds
        return Ended(until, runs, attempts, seconds)


def _from_rows(session: Session, queues: frozenset[str], settled: Ended | None) -> Iterator[Metric]:
    """What has ended is told once it has been counted for the first time: with a long history not at once."""
    waiting = {row.queue: row.n for row in session.execute(text(WAITING))}
    running = {row.queue: (row.n, row.expired) for row in session.execute(text(RUNNING))}
    there = {row.queue: (row.n, row.children) for row in session.execute(text(WORKERS), {"silent": SILENT_S})}
    ended = None if settled is None else settled.with_later(session)
    known = sorted(queues | set(waiting) | set(running) | set(there) | {queue for _, queue in (ended or Ended()).runs})
    states = GaugeMetricFamily("spinal_runs", "Runs by state and queue", labels=["state", "queue"])
    for queue in known:
        counts = {"QUEUED": waiting.get(queue, 0), "RUNNING": running.get(queue, (0, 0))[0]}
        if ended is not None:
            counts |= {state.value: int(ended.runs[state.value, queue]) for state in sorted(TERMINAL)}
        for state, count in counts.items():
            states.add_metric([state, queue], count)
    yield states
    due = {row.queue: row.n for row in session.execute(text(DUE))}
    oldest = {row.queue: row.seconds for row in session.execute(text(OLDEST_DUE))}
    yield _by_queue("spinal_due_runs", "Runs that could start", known, due)
    yield _by_queue(
        "spinal_running_runs", "Runs that are being carried out", known, {queue: n for queue, (n, _) in running.items()}
    )
    yield _by_queue("spinal_oldest_due_run_seconds", "Age of the oldest run that could start", known, oldest)
    yield _by_queue(
        "spinal_workers_alive",
        "Workers that have said lately that they are there",
        known,
        {queue: n for queue, (n, _) in there.items()},
    )
    yield _by_queue(
        "spinal_worker_children",
        "Runs that those workers carry out at once",
        known,
        {queue: children for queue, (_, children) in there.items()},
    )
    expired = sum(expired for _, expired in running.values())
    yield GaugeMetricFamily("spinal_expired_leases", "Running runs whose lease is over", value=expired)
    if ended is not None:
        yield from _attempts(ended)
    refused = CounterMetricFamily(
        "spinal_zombie_writes_refused", "Writes of attempts that had been taken away", labels=["write"]
    )
    row = session.execute(text(REFUSED)).one()
    refused.add_metric(["end"], row.ends)
    refused.add_metric(["heartbeat"], row.beats)
    yield refused
    yield CounterMetricFamily(
        "spinal_captures_measured_again",
        "Captures measured again because the artifact store had lost them",
        value=measured_again(session),
    )


def _by_queue(name: str, says: str, queues: Sequence[str], found: Mapping[str, float]) -> GaugeMetricFamily:
    made = GaugeMetricFamily(name, says, labels=["queue"])
    for queue in queues:
        made.add_metric([queue], found.get(queue, 0))
    return made


def _attempts(ended: Ended) -> Iterator[Metric]:
    attempts = CounterMetricFamily("spinal_attempts", "Attempts by outcome", labels=["kind", "outcome"])
    seconds = SummaryMetricFamily("spinal_attempt_seconds", "Seconds of ended attempts", labels=["kind", "outcome"])
    for (kind, outcome), count in sorted(ended.attempts.items()):
        attempts.add_metric([kind, outcome], count)
        seconds.add_metric([kind, outcome], int(count), ended.seconds[kind, outcome])
    yield attempts
    yield seconds
