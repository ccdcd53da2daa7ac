"""Which content a snapshot of files was found to hold, so that weights are hashed once."""

from sqlalchemy import text
from sqlalchemy.orm import Session


def known_weights_digest(session: Session, snapshot: str) -> str | None:
    found: str | None = session.execute(
        text("SELECT weights_digest FROM snapshots WHERE snapshot_digest = :s"), {"s": snapshot}
    ).scalar()
    return found


def remember_weights_digest(session: Session, snapshot: str, weights: str) -> None:
    session.execute(
        text("""INSERT INTO snapshots (snapshot_digest, weights_digest) VALUES (:s, :w)
                ON CONFLICT (snapshot_digest) DO NOTHING"""),
        {"s": snapshot, "w": weights},
    )
