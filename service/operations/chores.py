"""Work that one of many processes does now and then: a row says when it is due, and who does it.

No lock of a session, which a transaction pooler would hand to somebody else: who takes a turn says until when they will
be heard of again, and says so again before each step.
"""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


def take_turn(session: Session, name: str, holder: UUID, *, lease_s: float) -> bool:
    """Whether the work is due and ``holder`` is the one to do it, and to be heard of again within the lease."""
    session.execute(text("INSERT INTO chores (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name})
    return _move(session, name, holder, lease_s, "due_at <= now()")


def keep_turn(session: Session, name: str, holder: UUID, *, lease_s: float) -> bool:
    """Go on; False where the turn was given up and somebody else has taken it."""
    return _move(session, name, holder, lease_s, "held_by = :holder")


def end_turn(session: Session, name: str, holder: UUID, *, again_in_s: float) -> bool:
    """Done, or given up: it is due again after so many seconds."""
    return _move(session, name, holder, again_in_s, "held_by = :holder")


def _move(session: Session, name: str, holder: UUID, seconds: float, where: str) -> bool:
    moved = session.execute(
        text(f"""UPDATE chores SET due_at = now() + make_interval(secs => :seconds), held_by = :holder
                 WHERE name = :name AND {where} RETURNING name"""),  # noqa: S608  constants of this module
        {"name": name, "holder": holder, "seconds": seconds},
    ).scalar()
    return moved is not None
