"""The answer once given under an Idempotency-Key."""

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session


def find_idempotent(session: Session, tenant: str, key: str) -> Any:
    """(body_digest, audit_id, status) stored under an Idempotency-Key, or None."""
    return session.execute(
        text("SELECT body_digest, audit_id, status FROM idempotency_keys WHERE tenant = :t AND key = :k"),
        {"t": tenant, "k": key},
    ).one_or_none()


def lock_idempotency_key(session: Session, tenant: str, key: str) -> bool:
    """Hold the key until the transaction ends, ahead of every other lock; False when another transaction holds it."""
    held: bool = session.execute(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:tenant || chr(10) || :key, 0))"),
        {"tenant": tenant, "key": key},
    ).scalar_one()
    return held


def remember_idempotent(session: Session, tenant: str, key: str, body_digest: str, audit_id: UUID, status: int) -> bool:
    """Store the answer given under a key, whose lock the caller holds; False when code from before that lock stored one
    first."""
    return (
        session.execute(
            text("""INSERT INTO idempotency_keys (tenant, key, body_digest, audit_id, status)
                    VALUES (:t, :k, :body, :audit, :status) ON CONFLICT DO NOTHING RETURNING key"""),
            {"t": tenant, "k": key, "body": body_digest, "audit": audit_id, "status": status},
        ).scalar()
        is not None
    )
