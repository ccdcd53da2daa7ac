"""Delete what can be made again, and what nobody asks for any more (``spinal retention``).

Captures (their comparison measures them again when it needs one), files that belong to no trace (their writing was cut
off, or their worker had lost its run), answers kept under old Idempotency-Keys, and deliveries that ended long ago.
Audits, traces and comparisons are never deleted. Without ``--apply`` it only says what it would delete.
"""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.operations.chores import end_turn, keep_turn, take_turn
from service.operations.own_store import require_own_store
from service.operations.retained import (
    count_deliveries,
    count_idempotency_keys,
    delete_idempotency_keys,
    delete_old_deliveries,
    forget_capture,
    old_captures,
    unnamed_captures,
)
from service.platform.artifacts import ArtifactStore
from service.settings import Settings
from service.traces.store import StoredCapture

DAY_S = 86_400.0
UNNAMED_AFTER_S = DAY_S
"""A file younger than this may belong to an attempt that has not ended yet."""


def delete_what_can_be_made_again(
    ledger: Ledger,
    artifacts: ArtifactStore | None,
    captures_days: float | None,
    keys_days: float | None,
    deliveries_days: float | None = None,
    *,
    apply: bool,
    goes_on: Callable[[], bool] = lambda: True,
) -> dict[str, int]:
    """What was, or with ``apply`` False would be, deleted: captures, their bytes, files of no trace, idempotency keys,
    deliveries. None leaves those alone, whatever their age in days, and files where it is in place of ``artifacts``.
    Some rows in a transaction; it ends early where ``goes_on``, which is asked before each, says so. Raises
    StorageRefused, with nothing deleted, where the store is not this database's."""
    if artifacts is not None:
        require_own_store(ledger, artifacts, adopt=apply)
    old = []
    if captures_days is not None and artifacts is not None:
        with ledger.read() as session:
            old = old_captures(session, older_than_s=captures_days * DAY_S)
    unnamed = []
    if artifacts is not None:
        files = artifacts.older_than(UNNAMED_AFTER_S)
        with ledger.read() as session:
            unnamed = unnamed_captures(session, files)
    if apply:
        keys = _in_batches(ledger, delete_idempotency_keys, keys_days, goes_on)
        deliveries = _in_batches(ledger, delete_old_deliveries, deliveries_days, goes_on)
    else:
        keys = _counted(ledger, count_idempotency_keys, keys_days)
        deliveries = _counted(ledger, count_deliveries, deliveries_days)
    captures = old
    if apply and artifacts is not None:
        captures = _forget(ledger, artifacts, old, goes_on)
        for uri in unnamed:
            artifacts.remove(uri)
    return {
        "captures": len(captures),
        "bytes": sum(capture.bytes for capture in captures),
        "files_of_no_trace": len(unnamed),
        "idempotency_keys": keys,
        "deliveries": deliveries,
    }


class _OlderThan(Protocol):
    def __call__(self, session: Session, *, older_than_s: float) -> int: ...


def _in_batches(ledger: Ledger, delete: _OlderThan, days: float | None, goes_on: Callable[[], bool]) -> int:
    """``delete`` some rows in a transaction, until it finds none; returns how many went."""
    gone = 0
    while days is not None and goes_on():
        with ledger.begin() as session:
            some = delete(session, older_than_s=days * DAY_S)
        if not some:
            break
        gone += some
    return gone


def _counted(ledger: Ledger, count: _OlderThan, days: float | None) -> int:
    if days is None:
        return 0
    with ledger.read() as session:
        return count(session, older_than_s=days * DAY_S)


def _forget(
    ledger: Ledger, artifacts: ArtifactStore, captures: list[StoredCapture], goes_on: Callable[[], bool]
) -> list[StoredCapture]:
    """Delete those that nobody has come to need; returns them."""
    gone = []
    for capture in captures:
        if not goes_on():
            break
        # The row first, and for good: it never names a file that is gone.
        with ledger.begin() as session:
            unneeded = forget_capture(session, capture)
        if unneeded:
            artifacts.remove(capture.uri)
            gone.append(capture)
    return gone


CHORE = "retention"
LEASE_S = 300.0
"""Whoever does it says before each transaction that they are still at it; one that is silent for so long has died."""


def take_retention_turn(
    ledger: Ledger, settings: Settings, holder: UUID, *, stopped: Callable[[], bool]
) -> dict[str, int] | None:
    """Delete what the settings say, where that is due and nobody else is at it; None where not. Whatever it meets, it
    is due again at the next turn."""
    with ledger.begin() as session:
        if not take_turn(session, CHORE, holder, lease_s=LEASE_S):
            return None

    def goes_on() -> bool:
        if stopped():
            return False
        with ledger.begin() as session:
            return keep_turn(session, CHORE, holder, lease_s=LEASE_S)

    try:
        # Without captures to delete nobody needs the artifact store here.
        artifacts = None if settings.retain_captures_days is None else ArtifactStore(settings)
        return delete_what_can_be_made_again(
            ledger,
            artifacts,
            settings.retain_captures_days,
            settings.retain_keys_days,
            settings.retain_deliveries_days,
            apply=True,
            goes_on=goes_on,
        )
    finally:
        with ledger.begin() as session:
            end_turn(session, CHORE, holder, again_in_s=settings.retention_every_s)
