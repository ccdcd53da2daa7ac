"""/livez and /readyz: the only routes without a key."""

from anyio import move_on_after, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.database.unit_of_work import Ledger, database_errors
from service.http.context import LedgerDep
from service.http.documented import documented
from service.operations import migrate
from spinal import errors


class Health(BaseModel):
    status: str = Field(examples=["ok"])


READY_WITHIN_S = 2.5
"""Before the probe of ``docker-compose.yml`` gives up: it reads why."""
router = APIRouter(tags=["health"])
"""Asked every few seconds: what they answer is logged where it changes (:mod:`service.http.probes`)."""


@router.get("/livez", operation_id="livez", summary="Whether the process answers")
async def live() -> Health:
    """The process answers: on the event loop, without a thread, a connection or a lock."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Whether the service can take audits now",
    responses=documented(errors.NotReady, errors.DatabaseUnavailable),
)
async def ready(ledger: LedgerDep) -> Health:
    """A thread comes free, and the database answers and is at the migration of this code, or at a later one."""
    with move_on_after(READY_WITHIN_S):
        # Left alone where it hangs: it has a thread until its own limits end it.
        await to_thread.run_sync(_check_database, ledger, abandon_on_cancel=True)
        return Health(status="ok")
    raise errors.NotReady(
        f"no thread and no answer of the database within {READY_WITHIN_S:g} s", hint="try again; look at the log"
    )


def _check_database(ledger: Ledger) -> None:
    """Raises DatabaseUnavailable and NotReady."""
    with database_errors():
        at = migrate.current(ledger.engine)
    if at is None or migrate.is_older(at):
        raise errors.NotReady(
            f"the database is at migration {at or 'none'}, this service needs {migrate.head()}",
            hint="run `spinal database upgrade`",
        )
