"""What is read of the attempts that a run has had."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


def charged_attempts(session: Session, run_id: UUID) -> int:
    """How many attempts of the run count towards the most that it gets."""
    found: int = session.execute(text("SELECT charged_attempts FROM runs WHERE id = :id"), {"id": run_id}).scalar_one()
    return found


def handed_back_for(session: Session, run_id: UUID, reason: str) -> float:
    """Seconds since an attempt of the run was first handed back with ``reason`` as its problem's member ``reason``; 0
    where none was."""
    found: float = session.execute(
        text("""SELECT COALESCE(EXTRACT(epoch FROM now() - min(ended_at)), 0)::float8 FROM run_attempts
                WHERE run_id = :id AND outcome = 'released' AND error->>'reason' = :reason"""),
        {"id": run_id, "reason": reason},
    ).scalar_one()
    return found
