"""API keys ``spk_<id>_<secret>``: only an HMAC of the secret is kept."""

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.tables import ApiKeyRecord
from spinal.errors import UsageError

PRIORITY = "priority"
"""Scope of those who may ask for a priority above 0: their audits go before everybody else's."""
SCOPES = ("read", "write", PRIORITY, "admin")
PREFIX = "spk"
UNKNOWN_HINT = "`spinal keys list` shows the ids; one stands between the underscores of spk_<id>_<secret>"


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None

    def has(self, scope: str) -> bool:
        """Whether the key has a scope; ``admin`` is all of them."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True)
class Rotated:
    """A key that takes another's place."""

    key: str
    expires_at: datetime | None
    old_expires_at: datetime


def create_key(
    session: Session,
    *,
    tenant: str,
    scopes: tuple[str, ...],
    pepper: str,
    expires_at: datetime | None = None,
    description: str | None = None,
) -> str:
    """Store a new key and return it; it cannot be read again. A tenant whose data were deleted begins anew with it."""
    session.execute(
        text("DELETE FROM deleted_tenants WHERE digest = encode(sha256(convert_to(:tenant, 'UTF8')), 'hex')"),
        {"tenant": tenant},
    )
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    session.add(
        ApiKeyRecord(
            id=key_id,
            tenant=tenant,
            secret_hmac=_hmac(secret, pepper),
            scopes=list(scopes),
            expires_at=expires_at,
            description=description,
        )
    )
    session.flush()
    return f"{PREFIX}_{key_id}_{secret}"


def authenticate(session: Session, key: str, *, pepper: str) -> Caller | None:
    """The caller behind a key that is known, unexpired and not revoked."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != PREFIX or not key_id or not secret or not key_id.isalnum():
        return None
    row = session.execute(
        text("""SELECT tenant, secret_hmac, scopes FROM api_keys WHERE id = :id AND revoked_at IS NULL
                AND (expires_at IS NULL OR expires_at > now())"""),
        {"id": key_id},
    ).one_or_none()
    expected = row.secret_hmac if row is not None else _hmac("", pepper)
    if not hmac.compare_digest(_hmac(secret, pepper), expected) or row is None:
        return None
    return Caller(row.tenant, frozenset(row.scopes), key_id)


def database_time(session: Session) -> datetime:
    """The database's time, by which keys end."""
    found: datetime = session.execute(text("SELECT now()")).scalar_one()
    return found


def list_keys(session: Session, tenant: str | None = None) -> list[Row[Any]]:
    """All keys, or those of a tenant, newest first, and whether each is ``live``, ``expired`` or ``revoked``."""
    return list(
        session.execute(
            text("""SELECT id, tenant, scopes, description, created_at, last_used_at, expires_at, revoked_at,
                      replaced_by, CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
                        WHEN expires_at <= now() THEN 'expired' ELSE 'live' END AS state
                    FROM api_keys WHERE CAST(:tenant AS text) IS NULL OR tenant = :tenant
                    ORDER BY created_at DESC, id"""),
            {"tenant": tenant},
        ).all()
    )


def rotate_key(
    session: Session, key_id: str, *, overlap: timedelta, pepper: str, expires_at: datetime | None = None
) -> Rotated:
    """A new key with the same tenant, scopes and description; the old one ends after ``overlap``, or when it would have
    ended anyway, if that is sooner. The new one ends at ``expires_at``, or lives as long as the old one was given.

    Raises UsageError where there is no such live key, and where one that lives has taken its place already: of two who
    rotate a key at once, one gets a new key.
    """
    # Held until the end of the transaction: whoever revokes or rotates the key meanwhile waits, and sees what became.
    old = session.execute(
        text("""SELECT tenant, scopes, description, expires_at - created_at AS lifetime, replaced_by FROM api_keys
                WHERE id = :id AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) FOR UPDATE"""),
        {"id": key_id},
    ).one_or_none()
    if old is None:
        raise UsageError(f"no live key {key_id}", hint=UNKNOWN_HINT)
    # Asked for behind the lock: a statement that waited for it does not see keys that were made meanwhile.
    if old.replaced_by is not None and _is_live(session, old.replaced_by):
        raise UsageError(
            f"key {key_id} was rotated already: key {old.replaced_by} has taken its place",
            hint=f"`spinal keys rotate {old.replaced_by}`",
        )
    if expires_at is None and old.lifetime is not None:
        expires_at = database_time(session) + old.lifetime
    key = create_key(
        session, tenant=old.tenant, scopes=tuple(old.scopes), pepper=pepper, expires_at=expires_at,
        description=old.description,
    )  # fmt: skip
    ends = session.execute(
        text("""UPDATE api_keys SET expires_at = LEAST(expires_at, now() + CAST(:overlap AS interval)),
                  replaced_by = :by WHERE id = :id RETURNING expires_at"""),
        {"id": key_id, "by": key.split("_")[1], "overlap": overlap},
    ).scalar_one()
    return Rotated(key, expires_at, ends)


def revoke_key(session: Session, key_id: str) -> bool:
    """Revoke; False when there is no such live key."""
    return (
        session.execute(
            text("UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING id"),
            {"id": key_id},
        ).scalar()
        is not None
    )


def say_used(session: Session, key_ids: Collection[str], *, at_most_every: timedelta) -> None:
    """Note that keys have been used just now, where that was not said ``at_most_every`` ago. Keys that somebody changes
    at this moment are passed over: this waits for nobody."""
    session.execute(
        text("""UPDATE api_keys SET last_used_at = now() WHERE id IN (
                  SELECT id FROM api_keys WHERE id = ANY(:ids)
                    AND (last_used_at IS NULL OR last_used_at <= now() - CAST(:every AS interval))
                  ORDER BY id FOR UPDATE SKIP LOCKED)"""),
        {"ids": list(key_ids), "every": at_most_every},
    )


def _is_live(session: Session, key_id: str) -> bool:
    found = session.execute(
        text("""SELECT 1 FROM api_keys WHERE id = :id AND revoked_at IS NULL
                AND (expires_at IS NULL OR expires_at > now())"""),
        {"id": key_id},
    ).scalar()
    return found is not None


def _hmac(secret: str, pepper: str) -> str:
    return hmac.new(pepper.encode(), secret.encode("utf-8", "surrogatepass"), sha256).hexdigest()
