"""/livez and /readyz: the only routes without a key."""

from fastapi import APIRouter

from service import migrate
from service.api.context import LedgerDep
from service.api.schemas.catalog import Health
from service.api.schemas.problem import documented
from service.ledger.unit_of_work import database_errors
from spinal import errors

router = APIRouter(tags=["health"])


@router.get("/livez", operation_id="livez")
async def live() -> Health:
    """The process answers. No I/O."""
    return Health(status="ok")


@router.get("/readyz", operation_id="readyz", responses=documented(errors.NotReady, errors.DatabaseUnavailable))
def ready(ledger: LedgerDep) -> Health:
    """The database answers and is at the migration this code was written for, or at a later one."""
    with database_errors():
        at = migrate.current(ledger.engine)
    if at is None or migrate.is_older(at):
        raise errors.NotReady(
            f"the database is at migration {at or 'none'}, this service needs {migrate.head()}",
            hint="run python -m service.migrate",
        )
    return Health(status="ok")
