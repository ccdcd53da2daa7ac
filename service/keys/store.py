"""API keys ``spk_<id>_<secret>``: only HMACs of the secret are kept, of which one covers what the key may do.

A key made here says so in its secret, and opens nothing unless its row has the HMAC over tenant, id and scopes:
whoever edits the row, or takes that HMAC out of it, has a row that no key fits. The HMAC of the secret alone stays
beside it for processes of the former release, which know no other. A key of that release is bound with its next use.
"""

import hmac
import json
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from service.database.tables import ApiKeyRecord
from service.platform.derived import derived_key, mac
from spinal.errors import UsageError

PRIORITY = "priority"
"""Scope of those who may ask for a priority above 0: their audits go before everybody else's."""
SCOPES = ("read", "write", PRIORITY, "admin")
PREFIX = "spk"
BOUND = "b."
"""What secrets of bound keys begin with: no secret of the former release has a full stop."""
UNKNOWN_HINT = "`spinal keys list` shows the ids; one stands between the underscores of spk_<id>_<secret>"


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None
    to_bind: str | None = field(default=None, compare=False, repr=False)
    """The HMAC that the row of a key of the former release lacks."""

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
    key_id, secret = secrets.token_hex(8), BOUND + secrets.token_urlsafe(32)
    session.add(
        ApiKeyRecord(
            id=key_id,
            tenant=tenant,
            secret_hmac=_hmac(secret, pepper),
            bound_hmac=_bound(key_id, tenant, scopes, secret, pepper),
            scopes=list(scopes),
            expires_at=expires_at,
            description=description,
        )
    )
    session.flush()
    return f"{PREFIX}_{key_id}_{secret}"


def authenticate(session: Session, key: str, *, pepper: str, unbound: bool = True) -> Caller | None:
    """The caller behind a key that is known, unexpired and not revoked, and whose row says of it what it said when it
    was bound. ``unbound``: whether a key of the former release that is not bound yet opens anything."""
    prefix, _, rest = key.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != PREFIX or not key_id or not secret or not key_id.isalnum():
        return None
    row = session.execute(
        text("""SELECT tenant, secret_hmac, bound_hmac, scopes FROM api_keys WHERE id = :id AND revoked_at IS NULL
                AND (expires_at IS NULL OR expires_at > now())"""),
        {"id": key_id},
    ).one_or_none()
    if row is None:
        # As much work as for one that is there.
        hmac.compare_digest(_bound(key_id, "", (), secret, pepper), _bound(key_id, "", (), "", pepper))
        return None
    bound = _bound(key_id, row.tenant, row.scopes, secret, pepper)
    caller = Caller(row.tenant, frozenset(row.scopes), key_id)
    if row.bound_hmac is not None or secret.startswith(BOUND):
        return caller if hmac.compare_digest(bound, row.bound_hmac or "") else None
    if not (unbound and hmac.compare_digest(_hmac(secret, pepper), row.secret_hmac)):
        return None
    return replace(caller, to_bind=bound)


def find_live_key(session: Session, key_id: str) -> Caller | None:
    """Whose a key is that is unexpired and not revoked, for who has shown it before."""
    row = session.execute(
        text("""SELECT tenant, scopes FROM api_keys WHERE id = :id AND revoked_at IS NULL
                AND (expires_at IS NULL OR expires_at > now())"""),
        {"id": key_id},
    ).one_or_none()
    return None if row is None else Caller(row.tenant, frozenset(row.scopes), key_id)


def database_time(session: Session) -> datetime:
    """The database's time, by which keys end."""
    found: datetime = session.execute(text("SELECT now()")).scalar_one()
    return found


def list_keys(session: Session, tenant: str | None = None) -> list[Row[Any]]:
    """All keys, or those of a tenant, newest first, and whether each is ``live``, ``expired`` or ``revoked``."""
    return list(
        session.execute(
            text("""SELECT id, tenant, scopes, description, created_at, last_used_at, expires_at, revoked_at,
                      replaced_by, bound_hmac IS NOT NULL AS bound, CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
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


def bind_keys(session: Session, bound: Mapping[str, Caller]) -> None:
    """Keep the HMACs of keys that the former release made, where their rows still say what was read. Waits for
    nobody: a key that somebody changes at this moment is bound with another use."""
    for key_id, caller in sorted(bound.items()):
        session.execute(
            text("""UPDATE api_keys SET bound_hmac = :bound WHERE id IN (
                      SELECT id FROM api_keys WHERE id = :id AND bound_hmac IS NULL AND tenant = :tenant
                        AND scopes @> CAST(:scopes AS jsonb) AND scopes <@ CAST(:scopes AS jsonb)
                      FOR UPDATE SKIP LOCKED)"""),
            {
                "id": key_id,
                "bound": caller.to_bind,
                "tenant": caller.tenant,
                "scopes": json.dumps(sorted(caller.scopes)),
            },
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


def _bound(key_id: str, tenant: str, scopes: Collection[str], secret: str, pepper: str) -> str:
    """Under a key of its own: no HMAC of a secret alone, whatever the secret, is one of these."""
    said = json.dumps([tenant, key_id, sorted(set(scopes))]).encode()
    return mac(derived_key(pepper, "api-key/1"), said, secret.encode("utf-8", "surrogatepass")).hex()
