"""API keys ``spk_<id>_<secret>``: only an HMAC of the secret is kept."""

import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.database.tables import ApiKeyRecord

SCOPES = ("read", "write", "admin")
PREFIX = "spk"


@dataclass(frozen=True)
class Caller:
    """Who sends a request."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None


def create_key(session: Session, *, tenant: str, scopes: tuple[str, ...], pepper: str) -> str:
    """Store a new key and return it; it cannot be read again."""
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    session.add(ApiKeyRecord(id=key_id, tenant=tenant, secret_hmac=_hmac(secret, pepper), scopes=list(scopes)))
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


def revoke_key(session: Session, key_id: str) -> bool:
    """Revoke; False when there is no such live key."""
    return (
        session.execute(
            text("UPDATE api_keys SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING id"),
            {"id": key_id},
        ).scalar()
        is not None
    )


def _hmac(secret: str, pepper: str) -> str:
    return hmac.new(pepper.encode(), secret.encode("utf-8", "surrogatepass"), sha256).hexdigest()
