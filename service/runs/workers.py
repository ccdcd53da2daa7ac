"""Workers say that they are there; who reads it learns whether anybody takes what waits, and how soon."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.runs.kinds import known_versions

SILENT_S = 35.0
"""A worker that has said nothing for so long is not taken to be there: three times it did not come through."""
FORGOTTEN_S = 3600.0
"""A worker that has said nothing for so long is forgotten when another one begins."""


@dataclass(frozen=True)
class Presence:
    """What a worker says of itself."""

    id: UUID
    name: str
    queues: Sequence[str]
    children: int
    device: str
    version: str


def tell(session: Session, presence: Presence) -> None:
    """Say that the worker is there now, by the database's clock."""
    fresh = session.execute(
        text("""INSERT INTO workers (id, name, queues, children, device, version, knows)
                VALUES (:id, :name, CAST(:queues AS jsonb), :children, :device, :version, CAST(:knows AS jsonb))
                ON CONFLICT (id) DO UPDATE SET seen_at = now(), queues = EXCLUDED.queues, children = EXCLUDED.children
                RETURNING xmax = 0"""),
        {
            "id": presence.id,
            "name": presence.name,
            "queues": json.dumps(list(presence.queues)),
            "children": presence.children,
            "device": presence.device,
            "version": presence.version,
            "knows": known_versions(),
        },
    ).scalar_one()
    if fresh:
        # Only here does the table grow.
        session.execute(
            text("DELETE FROM workers WHERE seen_at < now() - make_interval(secs => :forgotten)"),
            {"forgotten": FORGOTTEN_S},
        )


def leave(session: Session, worker: UUID) -> None:
    """The worker takes no runs any more."""
    session.execute(text("DELETE FROM workers WHERE id = :id"), {"id": worker})
