"""/livez and /readyz: the only routes without a key."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.database.unit_of_work import database_errors
from service.http.context import LedgerDep
from service.http.documented import documented
from service.operations import migrate
from spinal import errors


class Health(BaseModel):
    status: str = Field(examples=["ok"])


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
            hint="run spinal database upgrade",
        )
    return Health(status="ok")
