"""Bring the database to a migration (``spinal database``). The application never does it by itself."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, exc, text

from service.database.sessions import require_sessions
from service.platform.addresses import direct_database_url
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

LOCK = 0x5350494E
"""Advisory lock under which migrations run: two at once queue up."""
WAIT_S = 60.0
MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
"""Beside the service, in a checkout as in its image."""
HAS_VERSION = "SELECT to_regclass('alembic_version')"
VERSION = "SELECT version_num FROM alembic_version"
PASSING = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


def config(engine: Engine | None = None) -> Config:
    """Alembic's configuration, without a file."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.attributes["engine"] = engine
    return made


@lru_cache(maxsize=1)
def _known() -> tuple[str, ...]:
    """Every migration of this code, newest first; read from its folder once per process."""
    return tuple(script.revision for script in ScriptDirectory.from_config(config()).walk_revisions())


def head() -> str:
    """The newest migration that the code knows."""
    return _known()[0]


def is_older(revision: str) -> bool:
    """Whether a database at ``revision`` lacks what this code needs. A revision that the code does not know is a later
    one: while a release rolls out, code of the release before works on the new database. So a migration may only add
    what the code before it can ignore; what it no longer needs goes in the release after."""
    return revision in _known()[1:]


def current(engine: Engine) -> str | None:
    """The migration that the database is at; None where it is at none. Asked by every probe: not through the library,
    which logs two lines whenever it looks."""
    with engine.connect() as connection:
        if connection.execute(text(HAS_VERSION)).scalar_one() is None:
            return None
        found: str | None = connection.execute(text(VERSION)).scalar_one_or_none()
        return found


def upgrade(settings: Settings, revision: str = "head", *, wait_s: float = WAIT_S) -> None:
    """Upgrade the database, waiting for it to come up; raises DatabaseUnavailable."""
    engine = direct_engine(settings)
    try:
        _wait_for(engine, wait_s)
        require_sessions(settings)
        _carry_out(command.upgrade, engine, revision)
    finally:
        engine.dispose()


def downgrade(settings: Settings, revision: str) -> None:
    """Downgrade the database to ``revision`` (``base`` empties it)."""
    require_sessions(settings)
    engine = direct_engine(settings)
    try:
        _carry_out(command.downgrade, engine, revision)
    finally:
        engine.dispose()


def direct_engine(settings: Settings) -> Engine:
    """Connections past any pooler that shares sessions: migrations hold a lock of their session."""
    return create_engine(direct_database_url(settings), connect_args={"connect_timeout": 3}, hide_parameters=True)


def _carry_out(step: Callable[[Config, str], None], engine: Engine, revision: str) -> None:
    for last in (False, False, False, True):
        try:
            step(config(engine), revision)
            return
        except exc.OperationalError as error:
            # Beside a service at work a migration may wait for locks too long, or in a circle: it is undone whole.
            if last or not isinstance(error.orig, PASSING):
                raise
        time.sleep(1.0)


def _wait_for(engine: Engine, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
            return
        except exc.OperationalError as error:
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f"the database did not answer within {wait_s:.0f} s", hint="check SPINAL_DATABASE_URL"
                ) from error
            time.sleep(0.5)
