"""Where an audit that waits stands: whether anybody takes its runs, what goes before them, and how soon they may begin.

What goes before a run is a bound. Within a priority tenants take turns (``rings.py``): until a tenant has had k + 1
turns, each other has at most as many. So of another tenant's line at most that many runs go first, however long it is.
A tenant is told this bound, rounded up to a step of ``STEPS``, and neither how many others there are nor how much they
want. Of its own runs it is told the number.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from math import ceil
from typing import Literal
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.run_tables import IN_LINE
from service.runs.workers import SILENT_S

MOST = 1000
"""No further than this is counted."""
STEPS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, MOST)
SECONDS = (
    0, 10, 20, 30, 60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200, 10800, 14400, 21600, 28800, 43200,
    86400, 172800, 259200, 604800,
)  # fmt: skip
"""Steps of estimated times: finer ones would change with every question, and mean nothing."""
LIFE_S = 120.0
"""An attempt that ended so lately shows that somebody takes runs of its queue."""
UNTAKEN_S = 60.0
"""A run that was rung and lies for so long, while nothing shows life, says that nobody takes it."""
LATEST_ATTEMPTS = 200
"""So many attempts of all queues are looked at, for their durations and for who shows life."""
FEWEST = 3
"""From fewer durations nothing is estimated."""
Workers = Literal["alive", "none", "unknown"]


@dataclass(frozen=True)
class Standing:
    """Where the run of an audit stands that is next."""

    queue: str
    workers: Workers
    too_old: bool = False
    """Workers of the queue are alive, and none knows what this run asks for."""
    own: int | None = None
    """Runs of its own tenant that go before it; None where it waits for no worker."""
    others: int = 0
    """At most so many of others may go before it, rounded up."""
    more: bool = False
    """There are more than counted."""
    at_least_s: int | None = None
    at_most_s: int | None = None
    """Until it starts, as steps of ``SECONDS``; None where nothing is known."""
    again_s: int | None = None
    """It is not tried again before; rounded up."""

    @property
    def ahead(self) -> int | None:
        """At most so many runs go before it."""
        return None if self.own is None else min(MOST, self.own + self.others)

    @property
    def summary(self) -> str | None:
        """One line for a person; None where it waits for no worker."""
        if self.own is None:
            return None
        if self.workers == "none":
            why = "knows this kind of run yet: they are of an older release" if self.too_old else "is alive"
            return f"no worker of queue {self.queue!r} {why}"
        parts = [self._place()]
        if self.again_s is not None:
            parts.append(f"it is tried again in {in_words(self.again_s)}")
        elif self.workers == "unknown":
            parts.append(f"no worker of queue {self.queue!r} has said that it is alive")
        elif self.at_most_s is not None and self.at_least_s is not None:
            parts.append(_span(self.at_least_s, self.at_most_s))
        return ", ".join(parts)

    def _place(self) -> str:
        if self.more:
            return f"more than {MOST:,} before it"
        if self.ahead == 0:
            return "nothing before it"
        return f"{'at most ' if self.others else ''}{self.ahead} before it"


def _span(at_least_s: int, at_most_s: int) -> str:
    if at_most_s == 0:
        return "it starts in a moment"
    if at_least_s == at_most_s:
        return f"it starts in about {in_words(at_most_s)}"
    if at_least_s == 0:
        return f"it starts within {in_words(at_most_s)}"
    return f"it starts in {in_words(at_least_s)} to {in_words(at_most_s)}"


def in_words(seconds: int) -> str:
    """``30 s``, ``5 min``, ``1.5 h``, ``2 days``."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name if seconds != 86400 else 'day'}"
    return f"{seconds} s"


def round_up(value: float, steps: tuple[int, ...]) -> int:
    """The first step that is no less; the last one where all are."""
    return steps[min(bisect_left(steps, value), len(steps) - 1)]


def round_down(value: float, steps: tuple[int, ...]) -> int:
    """The last step that is no more."""
    return steps[max(0, bisect_right(steps, value) - 1)]


@dataclass(frozen=True)
class Signs:
    """What the ledger shows of who works on a queue, and how fast."""

    present: int
    """Workers that take the queue and have said lately that they are there."""
    children: int
    """Of those that know what the run asks for: so many runs at once."""
    busy: int
    """Runs of the queue that are being carried out."""
    life: bool
    """Somebody carries out a run of the same kind and version, or did a moment ago: workers of the release before say
    nothing else of themselves."""
    untaken: bool
    """Runs of the queue have been rung, and lie."""
    typical_s: float | None
    long_s: float | None
    """Median and 90th percentile of how long runs of the queue took; None where too few are known."""


def workers_of(signs: Signs) -> Workers:
    """Whether anybody takes the run; "unknown" while a worker that says nothing of itself may still be there."""
    if signs.children or signs.life:
        return "alive"
    return "none" if signs.present or signs.untaken else "unknown"


def estimate(signs: Signs, *, own: int, others: int) -> tuple[int, int] | None:
    """From when to when a run may begin that has so many before it, in seconds as steps of ``SECONDS``; None where
    nothing is known. All that is before it may go first, or only what is its own tenant's."""
    if not signs.children or signs.typical_s is None or signs.long_s is None:
        return None
    free = max(0, signs.children - signs.busy)
    least = max(0, ceil((own + 1 - free) / signs.children) - 1) * signs.typical_s
    most = max(0, ceil((own + others + 1 - free) / signs.children)) * signs.long_s
    return round_down(min(least, most), SECONDS), round_up(most, SECONDS)


def find_standing(session: Session, audit_id: UUID) -> Standing | None:
    """Where an audit in flight stands, by the first of its runs that waits for a worker; None where none is in flight.
    Two statements, whose cost does not grow with the queue."""
    row = session.execute(
        text(f"""WITH me AS (
            SELECT r.id, r.kind, r.spec_version, r.queue, - r.priority AS below, r.tenants, r.created_at,
              r.state = 'QUEUED' AND NOT r.waits AND NOT r.cancel_requested AS in_line,
              CAST(EXTRACT(epoch FROM r.not_before - now()) AS float8) AS again_s
            FROM audit_runs x JOIN runs r ON r.id = x.run_id
            WHERE x.audit_id = :audit AND r.state IN ('QUEUED','RUNNING')
            ORDER BY in_line DESC, r.priority DESC, r.created_at, r.id LIMIT 1)
          SELECT {BY_INDEX}, me.*, there.present, there.children, busy.n AS busy, busy.same OR took.same AS life,
            CAST(took.typical_s AS float8) AS typical_s, CAST(took.long_s AS float8) AS long_s, took.n AS took,
            (SELECT COALESCE(bool_or(o.rung_at IS NOT NULL
                AND GREATEST(o.created_at, o.not_before) < now() - make_interval(secs => :untaken)), FALSE)
              FROM (SELECT rung_at, created_at, not_before FROM runs WHERE {IN_LINE} AND queue = me.queue
                    ORDER BY created_at LIMIT 20) o) AS untaken
          FROM me,
            LATERAL (SELECT count(*) AS present, COALESCE(sum(w.children) FILTER (
                WHERE CAST(w.knows->>me.kind AS int) >= me.spec_version), 0) AS children
              FROM workers w WHERE w.seen_at > now() - make_interval(secs => :silent)
                AND w.queues @> to_jsonb(me.queue)) there,
            LATERAL (SELECT count(*) AS n,
                COALESCE(bool_or(b.kind = me.kind AND b.spec_version >= me.spec_version), FALSE) AS same
              FROM runs b WHERE b.state = 'RUNNING' AND b.lease_until > now() AND b.queue = me.queue) busy,
            LATERAL (SELECT count(*) FILTER (WHERE a.succeeded) AS n,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY a.took) FILTER (WHERE a.succeeded) AS typical_s,
                percentile_cont(0.9) WITHIN GROUP (ORDER BY a.took) FILTER (WHERE a.succeeded) AS long_s,
                COALESCE(bool_or(a.lately AND r.kind = me.kind AND r.spec_version >= me.spec_version), FALSE) AS same
              FROM (SELECT run_id, outcome = 'succeeded' AS succeeded,
                      outcome <> 'lost' AND ended_at > now() - make_interval(secs => :life) AS lately,
                      EXTRACT(epoch FROM ended_at - started_at) AS took FROM run_attempts
                    WHERE ended_at > now() - interval '1 day' ORDER BY ended_at DESC LIMIT :latest) a
              CROSS JOIN LATERAL (SELECT queue, kind, spec_version FROM runs WHERE id = a.run_id LIMIT 1) r
              WHERE r.queue = me.queue) took"""),  # noqa: S608  a constant of tables.py
        {"audit": audit_id, "silent": SILENT_S, "life": LIFE_S, "untaken": UNTAKEN_S, "latest": LATEST_ATTEMPTS},
    ).one_or_none()
    if row is None:
        return None
    known = row.took >= FEWEST
    signs = Signs(
        row.present,
        row.children,
        row.busy,
        row.life,
        row.untaken,
        row.typical_s if known else None,
        row.long_s if known else None,
    )
    workers = workers_of(signs)
    too_old = workers == "none" and signs.present > 0
    if not row.in_line:
        return Standing(row.queue, workers, too_old)
    own, others = _ahead(session, row.queue, row.below, row.tenants, row.created_at)
    again_s = round_up(row.again_s, SECONDS) if row.again_s > 0 else None
    more = own + others > MOST
    span = None if more or again_s is not None else estimate(signs, own=own, others=round_up(others, STEPS))
    return Standing(
        row.queue,
        workers,
        too_old,
        own=min(own, MOST),
        others=round_up(others, STEPS),
        more=more,
        at_least_s=None if span is None else span[0],
        at_most_s=None if span is None else span[1],
        again_s=again_s,
    )


SORTS = ("enable_sort", "enable_incremental_sort")
BY_INDEX = ", ".join(f"set_config('{name}', 'off', TRUE)" for name in (*SORTS, "jit"))
ANYHOW = ", ".join(f"set_config('{name}', 'on', TRUE)" for name in SORTS)
"""SQL: the statement that follows reads lines in the order of their index, as in ``rings.py``; and later ones as they
like."""
RUNG = f"{IN_LINE} AND rung_at IS NOT NULL"
TO_RING = f"{IN_LINE} AND rung_at IS NULL"
PRIORITY = "queue = :queue AND (- priority) = :below"
TIME = "GREATEST(created_at, not_before)"


def _lines(name: str, of: str) -> str:
    """SQL: the sets of tenants that have runs ``of`` this priority waiting, found one by one in the index."""
    first = f"SELECT tenants FROM runs WHERE {of} AND {PRIORITY}"  # noqa: S608  constants of this module
    return f"""{name} AS (
        (SELECT tenants, 1 AS nth FROM ({first} ORDER BY tenants LIMIT 1) f)
        UNION ALL
        SELECT f.tenants, l.nth + 1 FROM {name} l CROSS JOIN LATERAL (
          {first} AND tenants > l.tenants ORDER BY tenants LIMIT 1) f WHERE l.nth < :most)"""  # noqa: S608  as above


def _line(of: str, time: str, before: str, limit: str) -> str:
    """SQL: a row for each run ``of`` of the line ``l``, in an order that no other index has than theirs: the planner
    may otherwise look for few rows among all."""
    last = "id" if time == "created_at" else "created_at, id"
    return f"""(SELECT 1 FROM runs WHERE {of} AND {PRIORITY} AND tenants = l.tenants AND {time} < {before}
      ORDER BY queue, (- priority), tenants, {time}, {last} LIMIT {limit})"""  # noqa: S608  as above


def _both(before: str, limit: str) -> str:
    """SQL: the same for those that were rung and those that were not."""
    return f"{_line(RUNG, 'created_at', before, limit)} UNION ALL {_line(TO_RING, TIME, before, limit)}"


def _higher(of: str) -> str:
    first = f"SELECT 1 FROM runs WHERE {of} AND queue = :queue AND (- priority) < :below"  # noqa: S608  as above
    return f"({first} ORDER BY queue, (- priority), tenants LIMIT :most + 1)"


OLDER = "CASE WHEN l.tenants = CAST(:tenants AS text[]) THEN CAST(:created AS timestamptz) ELSE 'infinity' END"
"""SQL: of the very line only what is older goes first, of lines that share a tenant all may."""
TURNS = "(own.n + 1) * cardinality(l.tenants)"
"""SQL: no more runs of a line of others go first: each of its tenants has at most as many turns."""


def _ahead(session: Session, queue: str, below: int, tenants: list[str], created_at: object) -> tuple[int, int]:
    """(runs of the same tenants, and of those that share some of them, that go first; how many of others may). Each is
    counted to one more than is told, and no further."""
    row = session.execute(
        text(f"""WITH RECURSIVE {_lines("rung", RUNG)}, {_lines("to_ring", TO_RING)},
          lines AS (SELECT tenants, tenants && CAST(:tenants AS text[]) AS ours FROM rung
                    UNION SELECT tenants, tenants && CAST(:tenants AS text[]) FROM to_ring),
          own AS (SELECT count(*) AS n FROM (
              SELECT 1 FROM lines l CROSS JOIN LATERAL ({_both(OLDER, ":most + 1")}) run
              WHERE l.ours LIMIT :most + 1) counted),
          others AS (SELECT count(*) AS n FROM (
              {_higher(RUNG)} UNION ALL {_higher(TO_RING)} UNION ALL
              (SELECT 1 FROM own CROSS JOIN lines l CROSS JOIN LATERAL (
                SELECT 1 FROM ({_both("'infinity'", TURNS)}) run LIMIT {TURNS}) turn
               WHERE NOT l.ours AND own.n <= :most)
              LIMIT :most + 1) counted)
          SELECT {ANYHOW}, own.n AS own, others.n AS others FROM own, others"""),  # noqa: S608  as above
        {"queue": queue, "below": below, "tenants": list(tenants), "created": created_at, "most": MOST},
    ).one()
    return row.own, row.others
