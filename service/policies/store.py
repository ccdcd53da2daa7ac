"""Policies: whose they are, by name and by digest. A row never changes, and stays while an audit names it."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from spinal.documents.policy import Policy
from spinal.policy import shipped
from spinal.policy.shipped import OURS


@dataclass(frozen=True)
class StoredPolicy:
    """A policy as a tenant has it."""

    name: str
    digest: str
    document: dict[str, Any]
    """Spelled out, as its digest covers it."""
    builtin: bool = False
    created_at: datetime | None = None
    """When the tenant stored it; None for one that ships."""


@lru_cache(maxsize=64)
def stored_form(policy: Policy, *, builtin: bool = False) -> StoredPolicy:
    """A policy under the digest of everything that it says, defaults included."""
    return StoredPolicy(policy.name, policy.digest, policy.spelled_out(), builtin)


def shipped_policies() -> dict[str, StoredPolicy]:
    """Those that ship, by name."""
    return {name: stored_form(shipped.shipped_policy(name), builtin=True) for name in shipped.SHIPPED}


def insert_policy(session: Session, tenant: str, policy: StoredPolicy) -> bool:
    """Store a policy for a tenant; False when the tenant has one of that name, the same or another."""
    return (
        session.execute(
            text("""INSERT INTO policies (tenant, digest, name, document)
                    VALUES (:tenant, :digest, :name, CAST(:document AS jsonb))
                    ON CONFLICT DO NOTHING RETURNING digest"""),
            {
                "tenant": tenant,
                "digest": policy.digest,
                "name": policy.name,
                "document": json.dumps(policy.document),
            },
        ).scalar()
        is not None
    )


def find_policy(session: Session, tenant: str, named: str) -> StoredPolicy | None:
    """The tenant's policy, or one that ships, by name and version or by digest."""
    for policy in shipped_policies().values():
        if named in (policy.name, policy.digest):
            return policy
    row = session.execute(
        text("""SELECT name, digest, document, created_at FROM policies
                WHERE tenant = :tenant AND (name = :named OR digest = :named)
                ORDER BY created_at DESC LIMIT 1"""),
        {"tenant": tenant, "named": named},
    ).one_or_none()
    return None if row is None else _stored(row)


def _stored(row: Row[Any]) -> StoredPolicy:
    # One that another release ships stands among a tenant's own once an audit of the tenant has named it.
    return StoredPolicy(row.name, row.digest, row.document, row.name.startswith(OURS), row.created_at)


def hold_policy(session: Session, tenant: str, policy: StoredPolicy) -> bool:
    """See to it that the policy is stored and stays until this transaction has ended, in which an audit comes to name
    it; False when it was deleted meanwhile."""
    if policy.builtin:
        insert_policy(session, tenant, policy)
    return (
        session.execute(
            text("SELECT 1 FROM policies WHERE tenant = :tenant AND digest = :digest FOR KEY SHARE"),
            {"tenant": tenant, "digest": policy.digest},
        ).scalar()
        is not None
    )


def list_policies(session: Session, tenant: str, *, after: str | None, limit: int) -> list[StoredPolicy]:
    """The tenant's own by name, and those of other releases that its audits name; ``after`` is the last name seen."""
    rows = session.execute(
        text("""SELECT name, digest, document, created_at FROM policies
                WHERE tenant = :tenant AND name > :after AND NOT name = ANY(:shipped) ORDER BY name LIMIT :limit"""),
        # Every name comes behind the empty one.
        {"tenant": tenant, "after": after or "", "shipped": list(shipped.SHIPPED), "limit": limit},
    )
    return [_stored(row) for row in rows]


def delete_policy(session: Session, tenant: str, digest: str) -> bool:
    """Delete a policy that no audit and no series names; False when one does.

    The row is locked before they are looked for: one that is being accepted holds it, and is seen afterwards."""
    which = {"tenant": tenant, "digest": digest}
    held = session.execute(
        text("SELECT 1 FROM policies WHERE tenant = :tenant AND digest = :digest FOR UPDATE"), which
    ).scalar()
    if held is None:
        return True
    gone = session.execute(
        text("""DELETE FROM policies WHERE tenant = :tenant AND digest = :digest AND NOT EXISTS (
                  SELECT 1 FROM audits WHERE audits.tenant = :tenant AND audits.policy = :digest) AND NOT EXISTS (
                  SELECT 1 FROM series WHERE series.tenant = :tenant AND series.policy = :digest) RETURNING digest"""),
        which,
    ).scalar()
    return gone is not None
