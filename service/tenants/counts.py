"""How much a tenant holds of what has a limit, and the refusal of more.

Triggers write down each change (migration 0020), and lock nothing. Whoever adds something takes the lock of the
tenant's count last of all, behind every lock of runs and audits (``service/runs/transitions.py``), adds the changes up,
and holds it until the transaction ends: nobody who has this lock waits for another, so it stands in no circle, and it
is one tenant's alone. A count is exact: whoever comes later sees what was added by all who had the lock before.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.settings import Settings
from service.settings_checks import Limits
from spinal.errors import IdempotencyKeyLimitReached, OpenAuditLimitReached, PromptSetLimitReached

What = Literal["open_audits", "idempotency_keys", "prompt_sets", "prompt_bytes"]
COUNTED: tuple[What, ...] = get_args(What)
"""In the order in which one transaction locks several of a tenant's."""
MADE_ROOM = 100
"""So many old Idempotency-Keys go at once where one has no room: the next hundred requests find some."""


def hold_counts(session: Session, tenant: str, *whats: What) -> dict[str, int]:
    """What the tenant holds of these, this transaction's own included; nobody adds to it until the transaction ends."""
    session.execute(
        text("""INSERT INTO tenant_counts (tenant, what)
                SELECT :tenant, what FROM unnest(CAST(:whats AS text[])) WITH ORDINALITY AS w(what, place)
                ORDER BY place
                ON CONFLICT (tenant, what) DO UPDATE SET tenant = EXCLUDED.tenant"""),
        {"tenant": tenant, "whats": sorted(whats, key=COUNTED.index)},
    )
    # A statement of its own: it sees what was committed while the one before waited for the lock.
    rows = session.execute(
        text("""WITH seen AS (DELETE FROM tenant_count_changes WHERE tenant = :tenant AND what = ANY(:whats)
                  RETURNING what, change)
                UPDATE tenant_counts SET held = held + COALESCE(
                  (SELECT sum(change) FROM seen WHERE seen.what = tenant_counts.what), 0)
                WHERE tenant = :tenant AND what = ANY(:whats) RETURNING what, held"""),
        {"tenant": tenant, "whats": list(whats)},
    )
    return {row.what: row.held for row in rows}


def count(session: Session, tenant: str, what: What) -> int:
    """What the tenant holds, without a lock."""
    found: int = session.execute(
        text("""SELECT CAST(COALESCE((SELECT held FROM tenant_counts WHERE tenant = :tenant AND what = :what), 0)
                  + COALESCE((SELECT sum(change) FROM tenant_count_changes WHERE tenant = :tenant AND what = :what), 0)
                  AS bigint)"""),
        {"tenant": tenant, "what": what},
    ).scalar_one()
    return found


def require_room(session: Session, tenant: str, most: int, *, more: int = 1) -> None:
    """Raises OpenAuditLimitReached where the tenant has no room for ``more`` open audits as it looks now, before
    anything was locked; ``keep_within`` has the last word."""
    held = count(session, tenant, "open_audits")
    if held + more > most:
        raise _too_many_audits(held, most, more)


def open_within(session: Session, tenant: str, most: int) -> None:
    """An audit of the tenant has been opened; raises OpenAuditLimitReached where that was one too many."""
    held = hold_counts(session, tenant, "open_audits")["open_audits"]
    if held > most:
        raise _too_many_audits(held - 1, most, 1)


def _too_many_audits(held: int, most: int, more: int) -> OpenAuditLimitReached:
    wanted = "" if more == 1 else f", which leaves no room for {more}"
    return OpenAuditLimitReached(
        f"{max(0, held)} of {most} audits are queued or running{wanted}",
        hint="wait for some to end, or cancel some; ask an operator for more (SPINAL_TENANT_LIMITS)",
        limit=most,
    )


def store_within(session: Session, tenant: str, limits: Limits) -> None:
    """A prompt set was stored for the tenant; raises PromptSetLimitReached where that was too much."""
    held = hold_counts(session, tenant, "prompt_bytes", "prompt_sets")
    allowed: Mapping[str, int] = {"prompt_sets": limits.prompt_sets, "prompt_bytes": limits.prompt_bytes}
    for what, most in allowed.items():
        if held[what] > most:
            raise PromptSetLimitReached(
                f"with this set there would be {held[what]} {_named(what)}, and at most {most} are allowed",
                hint="use a set that is stored already; ask an operator for more (SPINAL_TENANT_LIMITS)",
                limit=most,
            )


def _named(what: str) -> str:
    return {"prompt_sets": "prompt sets", "prompt_bytes": "bytes of prompts"}[what]


def keep_within(session: Session, settings: Settings, tenant: str) -> None:
    """An answer was kept under an Idempotency-Key. Where that is one too many, the oldest go whose promise has been
    kept: their audits have ended, and they are older than is promised. Raises IdempotencyKeyLimitReached where there
    are none."""
    most = settings.limits_of(tenant).idempotency_keys
    if hold_counts(session, tenant, "idempotency_keys")["idempotency_keys"] <= most:
        return
    # Who holds one of them at this moment is passed over: nobody is waited for behind the lock of the count.
    session.execute(
        text("""DELETE FROM idempotency_keys WHERE tenant = :tenant AND key IN (
                  SELECT k.key FROM idempotency_keys k JOIN audits a ON a.id = k.audit_id
                  WHERE k.tenant = :tenant AND k.created_at < now() - make_interval(secs => :kept)
                    AND a.state NOT IN ('QUEUED','RUNNING')
                  ORDER BY k.created_at LIMIT :some FOR UPDATE OF k SKIP LOCKED)"""),
        {"tenant": tenant, "kept": settings.idempotency_kept_s, "some": MADE_ROOM},
    )
    if hold_counts(session, tenant, "idempotency_keys")["idempotency_keys"] > most:
        raise IdempotencyKeyLimitReached(
            f"{most} answers are kept under Idempotency-Keys, and none of them may be forgotten yet",
            hint="send requests without one, or wait: each is kept for "
            f"{settings.idempotency_kept_s / 3600:g} hours and while its audit is open",
            limit=most,
        )
