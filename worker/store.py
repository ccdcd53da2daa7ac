"""Ending an attempt in the ledger so that neither an outage nor a commit whose answer got lost loses or doubles it."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from service.ledger import runs
from service.ledger.unit_of_work import Ledger
from spinal.errors import DatabaseUnavailable, LeaseLost

log = structlog.get_logger(__name__)
TRY_AGAIN_AFTER_S = 1.0


def end_attempt(
    ledger: Ledger, claim: runs.Claim, write: Callable[[Session], None], *, patient: Callable[[], bool]
) -> None:
    """Carry out ``write``, which ends the attempt under its fence, in one transaction; while the database is away,
    again and again for as long as ``patient()``.

    The fence decides whether the attempt may still write, nothing this process believes. Raises LeaseLost when the
    attempt was taken away, DatabaseUnavailable when patience ended before the database came back.
    """
    unsure = False
    while True:
        try:
            if unsure and (outcome := _outcome(ledger, claim)) is not None:
                # "lost" is written by others; every other end only by this attempt itself.
                if outcome == "lost":
                    raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} was taken away")
                log.info("commit confirmed by reading back", outcome=outcome)
                return
            with ledger.begin() as session:
                write(session)
            return
        except DatabaseUnavailable as error:
            if not patient():
                raise
            unsure = True
            log.warning("end of the attempt not stored yet", error=error.detail)
        time.sleep(TRY_AGAIN_AFTER_S)


def _outcome(ledger: Ledger, claim: runs.Claim) -> str | None:
    with ledger.read() as session:
        return runs.attempt_outcome(session, claim.run_id, claim.attempt)
