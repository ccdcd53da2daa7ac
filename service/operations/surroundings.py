"""What the commands of operators share: the settings, the ledger, and one way to say that the database is away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import psycopg
import typer
from alembic.util.exc import CommandError
from sqlalchemy import exc

from service.database.sessions import require_sessions
from service.database.unit_of_work import Ledger, database_errors
from service.settings import read_settings
from spinal.errors import DatabaseUnavailable, NotReady, UsageError

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout; errors as problem objects on stderr.")]


@contextmanager
def opened_ledger() -> Iterator[Ledger]:
    """The ledger behind SPINAL_DATABASE_URL. Raises DatabaseUnavailable, NotReady where it was not migrated, and
    UsageError where a pooler is not what the settings say."""
    settings = read_settings()
    require_sessions(settings)
    ledger = Ledger(settings)
    try:
        with database_named():
            yield ledger
    finally:
        ledger.close()


@contextmanager
def database_named() -> Iterator[None]:
    """Errors of the database, with the next step of somebody at a shell."""
    try:
        with database_errors():
            yield
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(
            f"the database did not answer: {_cause(error)}", hint="check SPINAL_DATABASE_URL"
        ) from error
    except exc.ProgrammingError as error:
        if isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            hint = "use a role that may; check SPINAL_DATABASE_URL"
        else:
            hint = "`spinal database upgrade`"
        raise NotReady(f"the ledger cannot be read: {_first_line(error.orig)}", hint=hint) from error
    except CommandError as error:
        # A migration that this code does not have, or one that cannot be taken back.
        raise UsageError(str(error), hint="`spinal database current` says where the database is") from error


def _cause(error: DatabaseUnavailable) -> str:
    """What the driver said, whichever way the error took."""
    cause = error.__cause__
    return _first_line(getattr(cause, "orig", None) or cause or error)


def _first_line(error: BaseException | None) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
