"""Storing a result so that neither an outage nor a commit whose answer got lost loses or doubles it."""

import time
from collections.abc import Callable

import structlog
from sqlalchemy.orm import Session

from service.ledger import runs
from service.ledger.unit_of_work import Ledger
from spinal.errors import DatabaseUnavailable, LeaseLost
from worker.lease import Lease, Stop

log = structlog.get_logger(__name__)
TRY_AGAIN_AFTER_S = 1.0


def store_result(
    ledger: Ledger, lease: Lease, claim: runs.Claim, digest: str, write: Callable[[Session], None]
) -> None:
    """``write`` the result and end the run, in one transaction under the fence; while the database is away, again
    and again for as long as the lease allows.

    Raises LeaseLost when the attempt was taken away, DatabaseUnavailable when the attempt has to stop before the
    database came back.
    """
    unsure = False
    while True:
        try:
            lease.require()
            with ledger.begin() as session:
                runs.check_fence(session, claim.run_id, claim.attempt)
                write(session)
                runs.succeed(session, claim.run_id, claim.attempt, digest)
            return
        except LeaseLost:
            # Not lost but done, when an earlier try was committed and only its answer did not arrive.
            if unsure and _committed(ledger, claim):
                log.info("commit confirmed by reading back", digest=digest)
                return
            raise
        except DatabaseUnavailable as error:
            if lease.stop not in (None, Stop.LOST):
                raise
            unsure = True
            log.warning("result not stored yet", digest=digest, error=error.detail)
        time.sleep(TRY_AGAIN_AFTER_S)


def _committed(ledger: Ledger, claim: runs.Claim) -> bool:
    with ledger.read() as session:
        return runs.attempt_outcome(session, claim.run_id, claim.attempt) == "succeeded"
