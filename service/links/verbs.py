"""What is done with links: make one, open one, revoke all of a tenant."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from service.audits.verbs import read_audit
from service.database.unit_of_work import Ledger, Reads
from service.keys.store import database_time
from service.links import store
from service.platform.links import PATH, Kind, Signed, is_of, link_key, read_token, sign
from service.series.verbs import read_series
from service.settings import Settings
from spinal.errors import LinkEnded, LinkNotFound, LinksUnavailable

AHEAD = timedelta(minutes=5)
"""How far the clock of who made a link may be ahead of the database's."""


@dataclass(frozen=True)
class Link:
    """A link that was just made."""

    path: str
    ends_at: datetime


@dataclass(frozen=True)
class Opened:
    """What a link opens, and for whose sake."""

    tenant: str
    signed: Signed


def make_link(ledger: Reads, tenant: str, settings: Settings, kind: Kind, subject: UUID, lifetime: timedelta) -> Link:
    """A link to the report of the tenant's audit or series. Raises AuditNotFound, SeriesNotFound, LinksUnavailable."""
    key = link_key(settings)
    if kind == "audit":
        read_audit(ledger, tenant, subject)
    else:
        read_series(ledger, tenant, subject)
    if key is None:
        raise LinksUnavailable(
            "links are signed with SPINAL_KEY_PEPPER, which is not set", hint="an operator sets it, for every process"
        )
    with ledger.read() as session:
        now = database_time(session)
    ends = now + lifetime
    return Link(PATH + sign(key, tenant, kind, subject, made_at=now, ends_at=ends), ends)


def open_link(ledger: Reads, settings: Settings, token: str) -> Opened:
    """What a link opens now. Raises LinkNotFound for one that nobody made, or whose report is gone, and LinkEnded."""
    key = link_key(settings)
    signed = None if key is None else read_token(key, token)
    if key is None or signed is None:
        raise _not_found()
    with ledger.read() as session:
        owned = store.find_owner(session, signed.kind, signed.id)
    if owned is None or not is_of(key, signed, owned.tenant) or signed.made_at > owned.now + AHEAD:
        raise _not_found()
    if signed.ends_at <= owned.now or (owned.revoked_at is not None and signed.made_at <= owned.revoked_at):
        raise LinkEnded("this link has ended", hint="ask whoever gave it to you for a new one")
    return Opened(owned.tenant, signed)


def linked_path(settings: Settings, opened: Opened, kind: Kind, subject: UUID) -> str | None:
    """The path of a link to what belongs to what a link opens; it ends with it, and is revoked with it."""
    key, told = link_key(settings), opened.signed
    if key is None:
        return None
    return PATH + sign(key, opened.tenant, kind, subject, made_at=told.made_at, ends_at=told.ends_at)


def revoke_links(ledger: Ledger, tenant: str) -> datetime:
    """No link to a report of the tenant that was made before opens anything from here on."""
    with ledger.begin() as session:
        return store.revoke_links(session, tenant)


def _not_found() -> LinkNotFound:
    return LinkNotFound(
        "there is nothing behind this link", hint="it may have been cut off; ask whoever gave it to you"
    )
