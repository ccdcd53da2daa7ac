"""Which content files were found to hold, by what their host says of them, so that weights are hashed once."""

from sqlalchemy import text
from sqlalchemy.orm import Session


def known_weights_digest(session: Session, files: str, *, not_older_than_s: float) -> str | None:
    """The content behind a host identity of files; None where it was never read, or too long ago, or by code that kept
    no digests of single files."""
    found: str | None = session.execute(
        text("""SELECT weights_digest FROM snapshots
                WHERE snapshot_digest = :files AND created_at > now() - make_interval(secs => :age)
                  AND EXISTS (SELECT 1 FROM weights_files w WHERE w.weights_digest = snapshots.weights_digest)"""),
        {"files": files, "age": not_older_than_s},
    ).scalar()
    return found


def remember_weights_digest(session: Session, files: str, weights: str) -> None:
    """What has just been read is known from now on."""
    session.execute(
        text("""INSERT INTO snapshots (snapshot_digest, weights_digest, scheme) VALUES (:files, :weights, 'rfc8785/1')
                ON CONFLICT (snapshot_digest) DO UPDATE
                SET weights_digest = EXCLUDED.weights_digest, created_at = now()"""),
        {"files": files, "weights": weights},
    )
