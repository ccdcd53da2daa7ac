"""The files of a checkpoint by name and content: what attestations name, and what signed models are held to."""

import json
from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.orm import Session

from spinal.documents.files import FileDigests


def store_files(session: Session, parts: Iterable[FileDigests]) -> None:
    """Keep what was hashed, once: the same content has the same files. May be carried out twice."""
    for part in parts:
        session.execute(
            text("""INSERT INTO weights_files (weights_digest, files, base)
                    VALUES (:digest, CAST(:files AS jsonb), :base) ON CONFLICT (weights_digest) DO NOTHING"""),
            {"digest": part.weights_digest, "files": json.dumps(part.files), "base": part.base},
        )


def files_of(session: Session, weights_digest: str) -> FileDigests | None:
    """The files that a weights digest is made of; None where none of this release's code has hashed them."""
    row = session.execute(
        text("SELECT files, base FROM weights_files WHERE weights_digest = :digest"), {"digest": weights_digest}
    ).one_or_none()
    return None if row is None else FileDigests(files=row.files, base=row.base)
