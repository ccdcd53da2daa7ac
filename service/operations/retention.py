"""Delete what can be made again (``spinal retention``).

Captures (their comparison measures them again when it needs one), files that belong to no trace (their writing was cut
off, or their worker had lost its run), and answers kept under old Idempotency-Keys. Audits, traces and comparisons are
never deleted. Without ``--apply`` it only says what it would delete.
"""

from service.database.unit_of_work import Ledger
from service.operations.own_store import require_own_store
from service.operations.retained import (
    count_idempotency_keys,
    delete_idempotency_keys,
    forget_capture,
    old_captures,
    unnamed_captures,
)
from service.platform.artifacts import ArtifactStore

DAY_S = 86_400.0
UNNAMED_AFTER_S = DAY_S
"""A file younger than this may belong to an attempt that has not ended yet."""


def delete_what_can_be_made_again(
    ledger: Ledger, artifacts: ArtifactStore, captures_days: float | None, keys_days: float | None, *, apply: bool
) -> dict[str, int]:
    """What was, or with ``apply`` False would be, deleted: captures, their bytes, files of no trace, idempotency keys.
    None leaves captures or keys alone, whatever their age in days. Raises StorageRefused, with nothing deleted, where
    the store is not this database's."""
    require_own_store(ledger, artifacts, adopt=apply)
    captures = []
    if captures_days is not None:
        with ledger.read() as session:
            captures = old_captures(session, older_than_s=captures_days * DAY_S)
    with ledger.read() as session:
        unnamed = unnamed_captures(session, artifacts.older_than(UNNAMED_AFTER_S))
    keys = 0
    if keys_days is not None:
        with ledger.read() as session:
            keys = count_idempotency_keys(session, older_than_s=keys_days * DAY_S)
    if apply:
        for capture in captures:
            # The row first, and for good: it never names a file that is gone.
            with ledger.begin() as session:
                unneeded = forget_capture(session, capture)
            if unneeded:
                artifacts.remove(capture.uri)
        for uri in unnamed:
            artifacts.remove(uri)
        if keys_days is not None:
            with ledger.begin() as session:
                keys = delete_idempotency_keys(session, older_than_s=keys_days * DAY_S)
    return {
        "captures": len(captures),
        "bytes": sum(capture.bytes for capture in captures),
        "files_of_no_trace": len(unnamed),
        "idempotency_keys": keys,
    }
