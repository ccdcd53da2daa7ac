"""Asking the ledger so that neither an outage nor a commit whose answer got lost loses or doubles an attempt's end."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.runs import transitions
from spinal.errors import DatabaseUnavailable, LeaseLost
from worker.lease import Lease

log = structlog.get_logger(__name__)
TRY_AGAIN_AFTER_S = 1.0
Found = TypeVar("Found")


def retry_while_unavailable(ask: Callable[[], Found], lease: Lease) -> Found:
    """``ask()``, again and again while the database is away and the lease is patient; then its DatabaseUnavailable."""
    failing_since = None
    while True:
        try:
            return ask()
        except DatabaseUnavailable as error:
            failing_since = failing_since or time.monotonic()
            if not lease.patient(failing_since):
                raise
            log.warning("waiting for the database", error=error.detail)
        time.sleep(TRY_AGAIN_AFTER_S)


def end_attempt(ledger: Ledger, lease: Lease, claim: transitions.Claim, write: Callable[[Session], str]) -> str:
    """Carry out ``write``, which ends the attempt under its fence, in one transaction; returns what it returned, or the
    outcome read back after a commit whose answer got lost.

    The fence decides whether the attempt may still write, nothing this process believes. Raises LeaseLost when the
    attempt was taken away, DatabaseUnavailable when patience ended before the database came back.
    """
    unsure = False

    def write_or_read_back() -> str:
        nonlocal unsure
        if unsure and (outcome := _outcome(ledger, claim)) is not None:
            if outcome == "lost":
                raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} was taken away")
            # This attempt's own doing; or the reaper's, who ends as "cancelled" what nobody wants any more.
            log.info("commit confirmed by reading back", outcome=outcome)
            return outcome
        unsure = True
        with ledger.begin() as session:
            return write(session)

    return retry_while_unavailable(write_or_read_back, lease)


def _outcome(ledger: Ledger, claim: transitions.Claim) -> str | None:
    with ledger.read() as session:
        return transitions.attempt_outcome(session, claim.run_id, claim.attempt)
