"""Which runs a worker has to be rung for: what the dispatcher reads and stamps."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.runs.kinds import IS_KNOWN, LOCK_ORDER, known_versions
from service.runs.transitions import NO_OPEN_DEPENDENCY

DUE_SINCE = """GREATEST(created_at, not_before, (SELECT max(n.finished_at) FROM run_dependencies d
                 JOIN runs n ON n.id = d.depends_on WHERE d.run_id = runs.id))"""
"""Since when a queued run without an open dependency could have been started."""


@dataclass(frozen=True)
class Due:
    run_id: UUID
    queue: str
    lag_s: float | None
    """Seconds between the time the run could start and its first ringing; None when it was rung before."""


def unanswered(session: Session, *, ring_again_s: float) -> dict[str, int]:
    """Queues with a run that was rung longer than ``ring_again_s`` ago and not taken -> runs rung and not taken."""
    rows = session.execute(
        text("""SELECT queue, count(*) AS rung FROM runs WHERE state = 'QUEUED' AND rung_at IS NOT NULL
                GROUP BY queue HAVING min(rung_at) < now() - make_interval(secs => :again)"""),
        {"again": ring_again_s},
    )
    return {row.queue: row.rung for row in rows}


def due_runs(session: Session, *, ring_again_s: float, again: Sequence[str], limit: int = 100) -> list[Due]:
    """Take queued runs whose time has come and stamp them as rung; copies of the dispatcher share them out. Those
    rung before come again only in the queues named in ``again``: where doorbells got lost."""
    rows = session.execute(
        text(f"""WITH due AS (
                   SELECT id, CASE WHEN rung_at IS NULL THEN
                     CAST(EXTRACT(epoch FROM now() - {DUE_SINCE}) AS float8) END AS lag FROM runs
                   WHERE state = 'QUEUED' AND NOT cancel_requested AND not_before <= now()
                     AND (rung_at IS NULL OR (queue = ANY(:again) AND rung_at < now() - make_interval(secs => :after)))
                     AND {NO_OPEN_DEPENDENCY}
                   ORDER BY priority DESC, created_at LIMIT :limit FOR UPDATE SKIP LOCKED)
                 UPDATE runs SET rung_at = now() FROM due WHERE runs.id = due.id
                 RETURNING runs.id, runs.queue, due.lag"""),  # noqa: S608  a constant of this module
        {"again": list(again), "after": ring_again_s, "limit": limit},
    )
    return [Due(UUID(str(row.id)), row.queue, row.lag) for row in rows]


@dataclass(frozen=True)
class Queued:
    """A run that waits."""

    run_id: UUID
    kind: str


def next_run(session: Session, rung: UUID) -> Queued | None:
    """The run that a worker starts when it is rung for ``rung``: of the runs of that queue that could start and were
    rung, the one of highest priority, then the oldest. It stays locked until the caller's transaction ends. None when
    there is none, or only runs that this code does not carry out: of newer code, or of kinds it does not know. (One
    that was not rung yet has its own doorbell to come: taking it here would leave one of the others without any.)

    Where others hold all of them at this moment it is ``rung`` itself, or else the best of them, not locked: waiting
    for it may be in vain, but a doorbell that is spent on nothing costs some run the time until the dispatcher rings
    again."""
    # A query that locks also keeps the locks of rows that were taken between its reading and its locking.
    with session.begin_nested() as savepoint:
        found = _next_run(session, rung, "priority DESC, created_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED")
        if found is None:
            savepoint.rollback()
    return found or _next_run(session, rung, "id = :rung DESC, priority DESC, created_at LIMIT 1")


def _next_run(session: Session, rung: UUID, order: str) -> Queued | None:
    row = session.execute(
        text(f"""SELECT id, kind FROM runs
                 WHERE state = 'QUEUED' AND NOT cancel_requested AND not_before <= now() AND {IS_KNOWN}
                   AND rung_at IS NOT NULL AND queue = (SELECT queue FROM runs WHERE id = :rung)
                   AND {NO_OPEN_DEPENDENCY}
                 ORDER BY {order}"""),  # noqa: S608  as above
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
