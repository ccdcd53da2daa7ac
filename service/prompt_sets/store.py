"""Content of prompt sets that runs need."""

import json

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from spinal.errors import PromptSetNotFound
from spinal.prompts.sets import PromptSet


def store_prompt_set(session: Session, prompts: PromptSet) -> None:
    """Insert a prompt set, once."""
    session.execute(
        text("""INSERT INTO prompt_sets (digest, name, prompts, continuations, count)
                VALUES (:digest, :name, CAST(:prompts AS jsonb), CAST(:continuations AS jsonb), :count)
                ON CONFLICT (digest) DO NOTHING"""),
        {
            "digest": prompts.digest,
            "name": prompts.name,
            "prompts": json.dumps(prompts.prompts),
            "continuations": json.dumps(prompts.continuations),
            "count": len(prompts),
        },
    )


def load_prompt_set(session: Session, digest: str) -> PromptSet:
    """A stored prompt set; raises PromptSetNotFound."""
    row = session.execute(
        text("SELECT name, prompts, continuations FROM prompt_sets WHERE digest = :d"), {"d": digest}
    ).one_or_none()
    if row is None:
        raise PromptSetNotFound(f"no prompt set {digest}", hint="POST it to /v1/prompt-sets first")
    return PromptSet(tuple(row.prompts), tuple(row.continuations), row.name)


def list_prompt_sets(session: Session, limit: int) -> list[Row[tuple[str, str | None, int]]]:
    """(digest, name, count) of the newest stored sets."""
    return list(
        session.execute(
            text("SELECT digest, name, count FROM prompt_sets ORDER BY created_at DESC, digest LIMIT :limit"),
            {"limit": limit},
        ).all()
    )
