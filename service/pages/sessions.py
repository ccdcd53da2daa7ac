"""Who is signed in: a cookie that names a key and says when it ends, signed. Nothing of the key itself is in it, and
what the key may do is looked up with each request: a revoked key ends its sessions."""

import hmac
import re
import secrets
import time

from service.database.unit_of_work import Reads
from service.keys.store import Caller, find_live_key
from service.platform.derived import key_for, mac
from service.settings import Settings

LASTS_S = 12 * 3600
PURPOSE = "session/1"
VALUE = re.compile(r"([0-9A-Za-z]{1,64})\.(\d{1,12})\.([0-9a-f]{64})\Z", re.ASCII)


def session_of(settings: Settings, caller: Caller, *, now: float | None = None) -> str:
    """The value of the cookie of a session that begins now; for callers that have shown a key."""
    key = key_for(settings, PURPOSE)
    if key is None or caller.key_id is None:
        raise ValueError("nobody signs in where no key is asked for")
    ends = int((time.time() if now is None else now) + LASTS_S)
    return f"{caller.key_id}.{ends}.{_signature(key, caller, ends)}"


def caller_of(ledger: Reads, settings: Settings, value: str, *, now: float | None = None) -> Caller | None:
    """Who is signed in with this cookie; None where it has ended, was not made by us, or its key has ended or is not
    what it was."""
    key, found = key_for(settings, PURPOSE), VALUE.match(value)
    if key is None or found is None or int(found[2]) <= (time.time() if now is None else now):
        return None
    with ledger.read() as session:
        caller = find_live_key(session, found[1])
    if caller is None or not hmac.compare_digest(_signature(key, caller, int(found[2])), found[3]):
        return None
    return caller


def form_token(settings: Settings, cookie: str) -> str:
    """What a form carries that only our own pages can have read: it follows from a cookie of the same browser. Empty
    where nothing can be signed, and no form is shown."""
    key = key_for(settings, PURPOSE)
    return "" if key is None or not cookie else mac(key, b"form", cookie.encode()).hex()


def is_form_token(settings: Settings, cookie: str, token: str) -> bool:
    """Whether a form was on a page that this browser was given."""
    expected = form_token(settings, cookie)
    return bool(expected) and hmac.compare_digest(expected.encode(), token.encode("utf-8", "surrogatepass"))


def new_form_cookie() -> str:
    return secrets.token_urlsafe(24)


def _signature(key: bytes, caller: Caller, ends: int) -> str:
    """With tenant and scopes: a row that was edited meanwhile ends the session, as it ends its key."""
    told = [caller.tenant, caller.key_id or "", str(ends), *sorted(caller.scopes)]
    return mac(key, b"session", *(part.encode("utf-8", "surrogatepass") for part in told)).hex()
