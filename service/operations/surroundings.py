"""What the commands of operators share: the ledger of the settings, and one way to say that it is away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from alembic.util.exc import CommandError
from sqlalchemy import exc

from service.database.unit_of_work import Ledger
from service.settings import get_settings
from spinal.errors import DatabaseUnavailable, NotReady, UsageError

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout; errors as problem objects on stderr.")]


@contextmanager
def opened_ledger() -> Iterator[Ledger]:
    """The ledger behind SPINAL_DATABASE_URL. Raises DatabaseUnavailable, and NotReady where it was not migrated."""
    ledger = Ledger(get_settings())
    try:
        with database_named():
            yield ledger
    finally:
        ledger.close()


@contextmanager
def database_named() -> Iterator[None]:
    """Errors of the database, with the next step of somebody at a shell."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise DatabaseUnavailable(error.detail, hint="check SPINAL_DATABASE_URL") from error
    except exc.OperationalError as error:
        cause = str(error.orig).strip().splitlines()[0]
        raise DatabaseUnavailable(f"the database did not answer ({cause})", hint="check SPINAL_DATABASE_URL") from error
    except exc.ProgrammingError as error:
        cause = str(error.orig).splitlines()[0]
        raise NotReady(f"the ledger cannot be read: {cause}", hint="run spinal database upgrade") from error
    except CommandError as error:
        # A migration that this code does not have, or one that cannot be taken back.
        raise UsageError(str(error), hint="spinal database current says where the database is") from error
