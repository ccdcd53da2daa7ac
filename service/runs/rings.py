"""Which runs a worker has to be rung for, and which one a worker that was rung starts.

Runs of one queue, priority and set of tenants are a line. Of the lines of the highest priority that one goes first of
whose tenants one was served longest ago, or never; within a line the oldest run does. Lines are found one by one in an
index, so that a long line costs no more than a short one.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.run_tables import IN_LINE
from service.runs.kinds import IS_KNOWN, LOCK_ORDER, known_versions

DUE = f"{IN_LINE} AND not_before <= now()"
"""SQL: a run could be started now."""
TO_RING = f"{IN_LINE} AND rung_at IS NULL"
RUNG = f"{IN_LINE} AND rung_at IS NOT NULL"
RUNG_SOME_TIME = "state = 'QUEUED' AND rung_at > '-infinity'"
"""SQL: the same, and more, in the words of the index by the time of ringing."""
DUE_SINCE = """GREATEST(created_at, not_before, (SELECT max(n.finished_at) FROM run_dependencies d
                 JOIN runs n ON n.id = d.depends_on WHERE d.run_id = runs.id))"""
"""Since when a queued run without an open dependency could have been started."""
TIME = "GREATEST(created_at, not_before)"
ENOUGH_DOORBELLS = 100
"""While the broker holds so many of a queue, no worker lacks one: whether others got lost is seen when they run low."""


def _lines(of: str, key: str, time: str, due: str) -> str:
    """SQL: the lines of the runs ``of`` by the columns ``key``, with the ``time`` of the first run of each; of those
    that are ``due`` the one whose turn it is first."""
    first = f"SELECT queue, (- priority) AS below, tenants, {time} AS since FROM runs WHERE {of}"  # noqa: S608  constants of this module
    order = f"ORDER BY queue, (- priority), tenants, {time} LIMIT 1"
    last = ", ".join({"(- priority)": "l.below"}.get(column, f"l.{column}") for column in key.split(", "))
    return f"""WITH RECURSIVE lines AS (
          ({first} {order})
          UNION ALL
          SELECT following.* FROM lines l CROSS JOIN LATERAL (
            {first} AND ({key}) > ({last}) {order}) following)
        SELECT l.queue, l.below, l.tenants FROM lines l CROSS JOIN LATERAL (
            SELECT t.served_at, m.tenant FROM unnest(l.tenants) AS m(tenant)
            LEFT JOIN turns t ON t.queue = l.queue AND t.tenant = m.tenant
            ORDER BY t.served_at NULLS FIRST, m.tenant LIMIT 1) turn
        WHERE {due}
        ORDER BY l.below, turn.served_at NULLS FIRST, turn.tenant, l.since, l.tenants, l.queue"""  # noqa: S608  as above


LINES_TO_RING = _lines(TO_RING, "queue, (- priority), tenants", TIME, "l.since <= now()")
LINES_TO_CLAIM = _lines(f"{RUNG} AND queue = :queue", "(- priority), tenants", "created_at", "TRUE")


@dataclass(frozen=True)
class Due:
    run_id: UUID
    queue: str
    lag_s: float | None
    """Seconds between the time the run could start and its first ringing; None when it was rung before."""


def unanswered(session: Session, *, ring_again_s: float) -> dict[str, int]:
    """Queues with a run that was rung longer than ``ring_again_s`` ago and not taken -> how many were, counted
    to ``ENOUGH_DOORBELLS``."""
    rows = session.execute(
        text(f"""WITH RECURSIVE queues AS (
                   (SELECT queue, rung_at FROM runs WHERE {RUNG_SOME_TIME} ORDER BY queue, rung_at LIMIT 1)
                   UNION ALL
                   SELECT following.* FROM queues q CROSS JOIN LATERAL (
                     SELECT queue, rung_at FROM runs WHERE {RUNG_SOME_TIME} AND queue > q.queue
                     ORDER BY queue, rung_at LIMIT 1) following)
                 SELECT q.queue, (SELECT count(*) FROM (
                     SELECT 1 FROM runs WHERE {RUNG_SOME_TIME} AND queue = q.queue
                     ORDER BY rung_at LIMIT :enough) counted) AS rung
                 FROM queues q WHERE q.rung_at < now() - make_interval(secs => :again)"""),  # noqa: S608  constants of this module
        {"again": ring_again_s, "enough": ENOUGH_DOORBELLS},
    )
    return {row.queue: row.rung for row in rows}


def due_runs(session: Session, *, ring_again_s: float, again: Sequence[str], limit: int = 100) -> list[Due]:
    """Take queued runs whose time has come and stamp them as rung, those that go first before others; copies of the
    dispatcher share them out. At most ``limit``, of every line the same number: there may be more. Those rung before
    come again only in the queues named in ``again``: where doorbells got lost."""
    due: list[Due] = []
    with _by_index(session):
        lines = session.execute(text(LINES_TO_RING)).all()
        for _, of_one_priority in groupby(lines, key=lambda line: line.below):
            due += _from_lines(session, list(of_one_priority), limit - len(due))
        return due + _rung_again(session, again, ring_again_s, limit - len(due))


@contextmanager
def _by_index(session: Session) -> Iterator[None]:
    """Read lines in the order of their index. Where statistics know nothing of the queue yet, as after a burst of
    submissions, Postgres takes any index for as good and sorting for free, and would read the whole queue for each
    line. (Its price for sorting must not let it compile what takes no time.)"""
    session.execute(text("SELECT set_config('enable_sort', 'off', TRUE), set_config('jit', 'off', TRUE)"))
    yield
    session.execute(text("SELECT set_config('enable_sort', 'on', TRUE)"))


def _from_lines(session: Session, lines: Sequence[Row[Any]], limit: int) -> list[Due]:
    """The first runs of each line, in turn, ``limit`` in all. A line of few leaves its share to the next call."""
    if limit <= 0:
        return []
    taken = lines[:limit]
    places = [
        {"place": place, "queue": line.queue, "below": line.below, "tenants": line.tenants}
        for place, line in enumerate(taken)
    ]
    rows = session.execute(
        text(f"""SELECT l.place, r.* FROM
                   jsonb_to_recordset(CAST(:lines AS jsonb)) AS l(place int, queue text, below int, tenants text[])
                 CROSS JOIN LATERAL (
                   SELECT id, queue, {TIME} AS since, created_at AS born,
                     CAST(EXTRACT(epoch FROM now() - {DUE_SINCE}) AS float8) AS lag FROM runs
                   WHERE {TO_RING} AND queue = l.queue AND (- priority) = l.below AND tenants = l.tenants
                     AND {TIME} <= now()
                   ORDER BY {TIME}, created_at, id LIMIT :each FOR UPDATE SKIP LOCKED) r"""),  # noqa: S608  as above
        {"lines": json.dumps(places), "each": max(1, limit // len(taken))},
    ).all()
    _stamp(session, rows)
    return [Due(UUID(str(row.id)), row.queue, row.lag) for row in _in_turn(rows)]


def _stamp(session: Session, rows: Sequence[Row[Any]]) -> None:
    """By their ids, in a statement of its own: one that chose them as well could come to read the whole table."""
    session.execute(text("UPDATE runs SET rung_at = now() WHERE id = ANY(:ids)"), {"ids": [row.id for row in rows]})


def _in_turn(rows: Sequence[Row[Any]]) -> list[Row[Any]]:
    """The first of each line, then the second of each, and so on."""
    found: list[tuple[int, int, Row[Any]]] = []
    ordered = sorted(rows, key=lambda row: (row.place, row.since, row.born, row.id))
    for place, line in groupby(ordered, key=lambda row: row.place):
        found += [(nth, place, row) for nth, row in enumerate(line)]
    return [row for _, _, row in sorted(found, key=lambda each: each[:2])]


def _rung_again(session: Session, queues: Sequence[str], after_s: float, limit: int) -> list[Due]:
    if limit <= 0 or not queues:
        return []
    rows = session.execute(
        text(f"""SELECT r.* FROM unnest(CAST(:queues AS text[])) AS q(queue) CROSS JOIN LATERAL (
                   SELECT id, queue FROM runs WHERE {RUNG_SOME_TIME} AND {DUE} AND queue = q.queue
                     AND rung_at < now() - make_interval(secs => :after)
                   ORDER BY rung_at LIMIT :limit FOR UPDATE SKIP LOCKED) r LIMIT :limit"""),  # noqa: S608  as above
        {"queues": list(queues), "after": after_s, "limit": limit},
    ).all()
    _stamp(session, rows)
    return [Due(UUID(str(row.id)), row.queue, None) for row in rows]


@dataclass(frozen=True)
class Queued:
    """A run that waits."""

    run_id: UUID
    kind: str


def next_run(session: Session, rung: UUID) -> Queued | None:
    """The run that a worker starts when it is rung for ``rung``: of the runs of that queue that could start and were
    rung, the one that goes first. It stays locked until the caller's transaction ends. None when there is none, or only
    runs that this code does not carry out: of newer code, or of kinds it does not know. (One that was not rung yet has
    its own doorbell to come: taking it here would leave one of the others without any.)

    Where others hold all of them at this moment it is ``rung`` itself, or else the best of them, not locked: waiting
    for it may be in vain, but a doorbell that is spent on nothing costs some run the time until the dispatcher rings
    again."""
    queue = session.execute(text("SELECT queue FROM runs WHERE id = :rung"), {"rung": rung}).scalar()
    if queue is None:
        return None
    with _by_index(session):
        lines = session.execute(text(LINES_TO_CLAIM), {"queue": queue}).all()
        # A query that locks also keeps the locks of rows that were taken between its reading and its locking.
        with session.begin_nested() as savepoint:
            found = _first_of(session, lines, "FOR NO KEY UPDATE SKIP LOCKED")
            if found is None:
                savepoint.rollback()
        return found or _itself(session, rung) or _first_of(session, lines, "")


def _first_of(session: Session, lines: Sequence[Row[Any]], lock: str) -> Queued | None:
    """The first run of the first line that has one to give."""
    for line in lines:
        row = session.execute(
            text(f"""SELECT id, kind FROM runs WHERE {RUNG} AND not_before <= now() AND {IS_KNOWN}
                       AND queue = :queue AND (- priority) = :below AND tenants = CAST(:tenants AS text[])
                     ORDER BY created_at, id LIMIT 1 {lock}"""),  # noqa: S608  as above
            {"queue": line.queue, "below": line.below, "tenants": line.tenants, "known": known_versions()},
        ).one_or_none()
        if row is not None:
            return Queued(UUID(str(row.id)), row.kind)
    return None


def _itself(session: Session, rung: UUID) -> Queued | None:
    row = session.execute(
        text(f"SELECT id, kind FROM runs WHERE id = :rung AND {RUNG} AND not_before <= now() AND {IS_KNOWN}"),  # noqa: S608  as above
        {"rung": rung, "known": known_versions()},
    ).one_or_none()
    return None if row is None else Queued(UUID(str(row.id)), row.kind)


def queued_run(session: Session, run_id: UUID) -> Queued | None:
    """The run by its id, while it waits."""
    row = session.execute(
        text("SELECT id, kind FROM runs WHERE id = :id AND state = 'QUEUED'"), {"id": run_id}
    ).one_or_none()
    return None if row is None else Queued(UUID(str(row.id)), row.kind)


def mark_not_rung(session: Session, run_ids: list[UUID]) -> None:
    """These are to be rung again: the broker did not take the message."""
    session.execute(
        text(f"""SELECT 1 FROM runs WHERE id = ANY(:ids) AND state = 'QUEUED'
                 ORDER BY {LOCK_ORDER} FOR NO KEY UPDATE"""),  # noqa: S608  a constant of kinds.py
        {"ids": run_ids},
    )
    session.execute(text("UPDATE runs SET rung_at = NULL WHERE id = ANY(:ids) AND state = 'QUEUED'"), {"ids": run_ids})
