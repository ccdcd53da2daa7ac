"""The answer once given under an Idempotency-Key."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from spinal.documents.canonical import digest_of
from spinal.documents.editions import FORMER, PRESENT


@dataclass(frozen=True)
class BodyDigests:
    """What tells requests apart, under both schemes of digests."""

    present: str
    former: str
    """As code from before schemes compares it."""
    spelled_out: str
    """The same with every default written out: what the first release told requests apart by."""


def body_digests(body: dict[str, Any], spelled_out: dict[str, Any]) -> BodyDigests:
    """Of a request as it was sent, and with every default."""
    return BodyDigests(
        digest_of(body, PRESENT.scheme), digest_of(body, FORMER.scheme), digest_of(spelled_out, FORMER.scheme)
    )


@dataclass(frozen=True)
class Answer:
    """What was once answered under a key."""

    body_digest: str
    body_digest_rfc8785: str | None
    audit_id: UUID
    status: int

    def is_to(self, asked: BodyDigests) -> bool:
        """Whether it answered the same request. Rows of code from before hold one digest, and not in today's scheme."""
        if self.body_digest_rfc8785 is not None:
            return self.body_digest_rfc8785 == asked.present
        return self.body_digest in (asked.former, asked.spelled_out)


def find_idempotent(session: Session, tenant: str, key: str) -> Answer | None:
    """The answer stored under an Idempotency-Key, or None."""
    row = session.execute(
        text("""SELECT body_digest, body_digest_rfc8785, audit_id, status FROM idempotency_keys
                WHERE tenant = :t AND key = :k"""),
        {"t": tenant, "k": key},
    ).one_or_none()
    return None if row is None else Answer(*row)


def lock_idempotency_key(session: Session, tenant: str, key: str) -> bool:
    """Hold the key until the transaction ends, ahead of every other lock; False when another transaction holds it."""
    held: bool = session.execute(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:tenant || chr(10) || :key, 0))"),
        {"tenant": tenant, "key": key},
    ).scalar_one()
    return held


def remember_idempotent(
    session: Session, tenant: str, key: str, asked: BodyDigests, audit_id: UUID, status: int
) -> bool:
    """Store the answer given under a key, whose lock the caller holds; False when code from before that lock stored one
    first."""
    return (
        session.execute(
            text("""INSERT INTO idempotency_keys (tenant, key, body_digest, body_digest_rfc8785, audit_id, status)
                    VALUES (:t, :k, :former, :present, :audit, :status) ON CONFLICT DO NOTHING RETURNING key"""),
            {
                "t": tenant,
                "k": key,
                "former": asked.former,
                "present": asked.present,
                "audit": audit_id,
                "status": status,
            },
        ).scalar()
        is not None
    )
