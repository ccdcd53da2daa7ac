"""Addresses that people open: links to one report, signed, which work without a key until they end.

A token holds no name: the kind, the id, when it was made and when it ends, and a tag that follows from the tenant. All
of that is signed, so that a token that nobody made costs no look at the database.
"""

import base64
import binascii
import hmac
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from service.platform.derived import key_for, mac
from service.settings import Settings

Kind = Literal["audit", "series"]
KINDS: dict[Kind, int] = {"audit": 1, "series": 2}
VERSION = 1
"""Of the token and of the key that signs it."""
PURPOSE = f"report-link/{VERSION}"
HEAD = struct.Struct(">BBQQ16s")
"""Version, kind, made and ends in milliseconds since 1970, id."""
TAG_BYTES, MAC_BYTES = 16, 32
TOKEN_CHARACTERS = -(-(HEAD.size + TAG_BYTES + MAC_BYTES) * 4 // 3)
PATH = "/r/"
"""What the path of a link begins with; what follows opens a report, and is written into no log."""
SECRET = re.compile(rf"(?:\A{PATH}|{PATH}(?=[A-Za-z0-9_-]{{40}})).*", re.DOTALL)
"""What of a path is written nowhere: also where somebody asks for a link below a path that is none of ours."""
LIFETIME, LONGEST = timedelta(days=7), timedelta(days=90)
SHORTEST = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Signed:
    """What a token says that we have signed."""

    kind: Kind
    id: UUID
    made_at: datetime
    ends_at: datetime
    head: bytes
    tag: bytes


def told_path(path: str) -> str:
    """A path as logs may know it: what opens a report without a key is written nowhere."""
    return SECRET.sub(f"{PATH}...", path)


def link_key(settings: Settings) -> bytes | None:
    """What signs links; None where a service without keys has no pepper either."""
    return key_for(settings, PURPOSE)


def sign(key: bytes, tenant: str, kind: Kind, subject: UUID, *, made_at: datetime, ends_at: datetime) -> str:
    """The token of a link."""
    made, ends = ((moment - EPOCH) // MILLISECOND for moment in (made_at, ends_at))
    head = HEAD.pack(VERSION, KINDS[kind], made, ends, subject.bytes)
    told = head + _tag(key, tenant, head)
    return base64.urlsafe_b64encode(told + mac(key, b"link", told)).decode().rstrip("=")


def read_token(key: bytes, token: str) -> Signed | None:
    """What a token says; None for one that we have not signed as it is written. Whether its tenant is still the one for
    whom it was made, :func:`is_of` tells."""
    raw = _bytes(token)
    if raw is None:
        return None
    told, signature = raw[:-MAC_BYTES], raw[-MAC_BYTES:]
    if not hmac.compare_digest(mac(key, b"link", told), signature):
        return None
    head, tag = told[: HEAD.size], told[HEAD.size :]
    version, number, made, ends, subject = HEAD.unpack(head)
    kinds: dict[int, Kind] = {number: kind for kind, number in KINDS.items()}
    if version != VERSION or number not in kinds:
        return None
    return Signed(kinds[number], UUID(bytes=subject), EPOCH + made * MILLISECOND, EPOCH + ends * MILLISECOND, head, tag)


def is_of(key: bytes, signed: Signed, tenant: str) -> bool:
    """Whether a token was made for what belongs to the tenant."""
    return hmac.compare_digest(_tag(key, tenant, signed.head), signed.tag)


def report_path(noun: str, subject: object) -> str:
    """The path of the page with the report of one of ``audits`` or ``series``, for whoever is signed in."""
    return f"/ui/{noun}/{subject}/report"


def report_page(settings: Settings, noun: str, subject: object) -> str | None:
    """Where the same page is for whoever is elsewhere; None where the settings do not say."""
    return None if settings.public_url is None else settings.public_url + report_path(noun, subject)


def report_link(
    settings: Settings,
    tenant: str,
    audit_id: UUID,
    *,
    lifetime_s: float | None = None,
    kind: Kind = "audit",
    now: datetime | None = None,
) -> str | None:
    """Where the report of an audit, or of a series, is read in a browser, without a key, for ``lifetime_s`` (by default
    7 days, 90 at most); None where the settings do not say under which address callers reach the API. Whoever may see
    the link may read the report. ``now``: by the database's clock, where that is at hand."""
    if settings.public_url is None:
        return None
    key = link_key(settings)
    if key is None:
        # Of a service that asks nobody for a key.
        return report_page(settings, "audits" if kind == "audit" else "series", audit_id)
    made = datetime.now(UTC) if now is None else now
    lifetime = LIFETIME if lifetime_s is None else min(timedelta(seconds=lifetime_s), LONGEST)
    token = sign(key, tenant, kind, audit_id, made_at=made, ends_at=made + lifetime)
    return f"{settings.public_url}{PATH}{token}"


def _tag(key: bytes, tenant: str, head: bytes) -> bytes:
    """What a tenant's link carries of it: with the head in it, no two links of a tenant can be told to be of one."""
    return mac(key, b"tenant", head, tenant.encode("utf-8", "surrogatepass"))[:TAG_BYTES]


def _bytes(token: str) -> bytes | None:
    """Only as it was written: bits that base64 leaves over are none."""
    if len(token) != TOKEN_CHARACTERS or not token.isascii():
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if base64.urlsafe_b64encode(raw).decode().rstrip("=") == token else None
