"""Prompt sets: content that runs need, shared by all, and whose sets they are."""

import json
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from spinal.errors import DocumentInvalid, PromptSetNotFound, StoredPromptSetNotFound
from spinal.prompts.builtin import is_builtin
from spinal.prompts.sets import FURTHER, PromptSet, prompt_from_json, prompt_to_json

NOT_FOUND_HINT = "`spinal prompts list` shows those that there are, `spinal prompts push FILE` stores one"


def store_prompt_set(session: Session, prompts: PromptSet) -> None:
    """Insert the content of a prompt set, once. Content is shared by all tenants: only built-in sets have a name.

    The release before would pass over the members that not every set has, and measure something else under the set's
    digest: of a set with any of them it finds no prompt (``PromptSetRecord.later``), and refuses it."""
    members: dict[str, Any] = {
        "prompts": [prompt_to_json(prompt) for prompt in prompts.prompts],
        "continuations": prompts.continuations,
    }
    further = {name: getattr(prompts, name) for name in FURTHER if getattr(prompts, name)}
    known, later = ({"prompts": [], "continuations": []}, members | further) if further else (members, {})
    session.execute(
        text("""INSERT INTO prompt_sets (digest, name, prompts, continuations, later, count)
                VALUES (:digest, :name, CAST(:prompts AS jsonb), CAST(:continuations AS jsonb), CAST(:later AS jsonb),
                  :count)
                ON CONFLICT (digest) DO NOTHING"""),
        {
            "digest": prompts.digest,
            "name": prompts.name if is_builtin(prompts) else None,
            "prompts": json.dumps(known["prompts"]),
            "continuations": json.dumps(known["continuations"]),
            "later": json.dumps(later),
            "count": len(prompts),
        },
    )


def keep_prompt_set(session: Session, tenant: str, prompts: PromptSet, *, given: bool = False) -> bool:
    """Store a prompt set for a tenant; stored again under another name, it has that one from then on. A built-in set
    is everybody's.

    One that was ``given`` by its owner, and not only asked for, is from then on the newest of its name. Whether the
    tenant had it not."""
    store_prompt_set(session, prompts)
    if is_builtin(prompts):
        return False
    kept = session.execute(
        text("""INSERT INTO tenant_prompt_sets AS own (tenant, digest, name) VALUES (:tenant, :digest, :name)
                ON CONFLICT (tenant, digest) DO UPDATE SET name = EXCLUDED.name, created_at = now()
                WHERE EXCLUDED.name IS NOT NULL AND (:given OR own.name IS DISTINCT FROM EXCLUDED.name)
                RETURNING own.xmax = 0 AS fresh"""),
        {"tenant": tenant, "digest": prompts.digest, "name": prompts.name, "given": given},
    ).scalar()
    return bool(kept)


def read_prompt_set(session: Session, tenant: str, named: str) -> PromptSet:
    """The set of that digest or name that is the tenant's own; raises StoredPromptSetNotFound. Whoever only knows a
    digest may measure on a set that nobody has, and reads none of it."""
    row = session.execute(
        text("""SELECT own.name, p.prompts, p.continuations, p.later
                FROM tenant_prompt_sets own JOIN prompt_sets p ON p.digest = own.digest
                WHERE own.tenant = :tenant AND (own.name = :named OR own.digest = :named)
                ORDER BY own.digest = :named DESC, own.created_at DESC LIMIT 1"""),
        {"tenant": tenant, "named": named},
    ).one_or_none()
    if row is None:
        raise StoredPromptSetNotFound(f"no prompt set {named}", hint=NOT_FOUND_HINT)
    return _made(row)


def find_prompt_set(session: Session, tenant: str, named: str) -> PromptSet:
    """The tenant's prompt set of that digest, or the newest that the tenant calls so; raises PromptSetNotFound.

    A set that nobody has is found by its digest: processes of the release before store sets without saying for whom."""
    row = session.execute(
        text("""SELECT own.name, p.prompts, p.continuations, p.later FROM prompt_sets p
                LEFT JOIN tenant_prompt_sets own ON own.digest = p.digest AND own.tenant = :tenant
                WHERE own.name = :named OR (p.digest = :named AND (own.tenant IS NOT NULL OR NOT EXISTS (
                  SELECT 1 FROM tenant_prompt_sets other WHERE other.digest = p.digest)))
                ORDER BY p.digest = :named DESC, own.created_at DESC LIMIT 1"""),
        {"tenant": tenant, "named": named},
    ).one_or_none()
    if row is None:
        raise PromptSetNotFound(f"no prompt set {named}", hint=NOT_FOUND_HINT)
    return _made(row)


def load_prompt_set(session: Session, digest: str) -> PromptSet:
    """The content that a run needs; raises PromptSetNotFound, and DocumentInvalid where the row holds other prompts
    than its digest says: what is measured on them would go by the name of these."""
    row = session.execute(
        text("SELECT name, prompts, continuations, later FROM prompt_sets WHERE digest = :d"), {"d": digest}
    ).one_or_none()
    if row is None:
        raise PromptSetNotFound(f"no prompt set {digest}", hint=NOT_FOUND_HINT)
    made = _made(row)
    if made.digest != digest:
        raise DocumentInvalid(f"the stored prompts of {digest} are not those", hint="restore them from a backup")
    return made


def _made(row: Row[Any]) -> PromptSet:
    members = {"prompts": row.prompts, "continuations": row.continuations} | row.later
    return PromptSet(
        prompts=tuple(map(prompt_from_json, members["prompts"])),
        continuations=tuple(members["continuations"]),
        name=row.name,
        rejected=tuple(members.get("rejected") or ()),
        refusals=tuple(tuple(openings or ()) for openings in members.get("refusals") or ()),
        categories=tuple(members.get("categories") or ()),
    )


def list_prompt_sets(session: Session, tenant: str, limit: int) -> list[Row[tuple[str, str | None, int]]]:
    """(digest, name, count) of the tenant's newest sets."""
    return list(
        session.execute(
            text("""SELECT own.digest, own.name, p.count
                    FROM tenant_prompt_sets own JOIN prompt_sets p ON p.digest = own.digest
                    WHERE own.tenant = :tenant ORDER BY own.created_at DESC, own.digest LIMIT :limit"""),
            {"tenant": tenant, "limit": limit},
        ).all()
    )
