"""Delete what can be made again: ``python -m service.operations.retention --captures-days 30 --keys-days 7 --apply``.

Captures (their comparison measures them again when it needs one), files that belong to no trace (their writing was cut
off, or their worker had lost its run), and answers kept under old Idempotency-Keys. Audits, traces and comparisons are
never deleted. Without ``--apply`` it only says what it would delete.
"""

import argparse
import json
import sys

from service.database.unit_of_work import Ledger
from service.operations.retained import (
    count_idempotency_keys,
    delete_idempotency_keys,
    forget_capture,
    old_captures,
    unnamed_captures,
)
from service.platform.artifacts import ArtifactStore
from service.settings import get_settings
from spinal.errors import DatabaseUnavailable

DAY_S = 86_400.0
UNNAMED_AFTER_S = DAY_S
"""A file younger than this may belong to an attempt that has not ended yet."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="service.operations.retention", description=__doc__.split("\n\n")[0])
    parser.add_argument("--captures-days", type=float, help="delete captures of traces older than this")
    parser.add_argument("--keys-days", type=float, help="delete answers kept under Idempotency-Keys older than this")
    parser.add_argument("--apply", action="store_true", help="delete; without it only say what would be deleted")
    chosen = parser.parse_args(arguments)
    settings = get_settings()
    ledger, artifacts = Ledger(settings), ArtifactStore(settings)
    try:
        found = _run(ledger, artifacts, chosen.captures_days, chosen.keys_days, apply=chosen.apply)
    except DatabaseUnavailable as error:
        sys.stderr.write(f"error: {error.detail}\nnext: check SPINAL_DATABASE_URL\n")
        return 2
    finally:
        ledger.close()
    sys.stdout.write(json.dumps({"applied": chosen.apply, **found}, indent=2) + "\n")
    return 0


def _run(
    ledger: Ledger, artifacts: ArtifactStore, captures_days: float | None, keys_days: float | None, *, apply: bool
) -> dict[str, int]:
    """What was, or would be, deleted: captures, their bytes, files of no trace, idempotency keys."""
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


if __name__ == "__main__":
    sys.exit(main())
