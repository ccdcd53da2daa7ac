"""What the server holds a session or a transaction to, whatever stands between here and Postgres.

Without a pooler, and with one in session mode, a connection is a session: it is told once. A pooler in transaction mode
gives each transaction to whichever session is free: every transaction is told, and whatever needs a session of its own
(LISTEN, migrations) goes past the pooler. What is not as the settings say is noticed at the start: limits that were
asked for and are not in force would be missed only in the hour that needs them.
"""

import secrets
from collections.abc import Callable
from typing import Any

import psycopg

from service.database.connection import PING_LIMIT_S, BoundedConnection
from service.platform.addresses import DIRECT, conninfo, database_url, direct_database_url
from service.settings import Settings
from spinal.errors import UsageError

IDLE_IN_TRANSACTION_MS = 15_000
MARK = "spinal.session"
REFUSED = "unsupported startup parameter"
"""What PgBouncer says to parameters that it does not know."""
NEXT_STEP = (
    "set SPINAL_DB_POOLER=transaction, with SPINAL_DATABASE_DIRECT_URL naming Postgres itself; or "
    "SPINAL_DB_POOLER=session where the pool is in session mode"
)
TELL = "SELECT " + ", ".join(f"set_config(%(name_{at})s, %(value_{at})s, %(local)s)" for at in range(4))


class SessionsNotOurs(psycopg.OperationalError):
    """Something between here and Postgres does not keep what a session was told."""


def limits(settings: Settings) -> dict[str, str]:
    """Parameters of Postgres by name, those with a unit in milliseconds."""
    return {
        "statement_timeout": str(int(settings.db_statement_timeout_s * 1000)),
        "lock_timeout": str(int(settings.db_lock_timeout_s * 1000)),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "timezone": "UTC",
    }


def tell(connection: BoundedConnection, settings: Settings, *, transaction: bool) -> None:
    """Put the limits in force: until the transaction ends, or for the session."""
    told: dict[str, Any] = {"local": transaction}
    for at, (name, value) in enumerate(limits(settings).items()):
        told |= {f"name_{at}": name, f"value_{at}": value}
    connection.execute(TELL, told)


def connect_options(settings: Settings, given: str = "") -> dict[str, Any]:
    """Arguments of a connection; ``given`` are the startup options of the address itself."""
    options: dict[str, Any] = {
        "connect_timeout": settings.db_connect_timeout_s,
        "application_name": "spinal",
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    if settings.db_pooler == "none":
        asked = " ".join(f"-c {name}={value}" for name, value in limits(settings).items())
        options["options"] = f"{given} {asked}".strip()
    if settings.db_pooler == "transaction":
        # The session that prepared a statement is not the one that would carry it out.
        options["prepare_threshold"] = None
    return options


def verify(connection: BoundedConnection, settings: Settings, another: Callable[[], BoundedConnection]) -> None:
    """Whether ``connection``, fresh and outside any transaction, is a session of its own that has the limits; raises
    SessionsNotOurs. ``another`` opens one like it."""
    before, connection.answer_limit_s = connection.autocommit, PING_LIMIT_S
    connection.set_autocommit(True)
    found = dict(
        connection.execute(
            "SELECT lower(name), setting FROM pg_settings WHERE lower(name) = ANY(%s)", [list(limits(settings))]
        ).fetchall()
    )
    missed = sorted(name for name, value in limits(settings).items() if found.get(name) != value)
    if missed:
        raise SessionsNotOurs(f"{', '.join(missed)} that a connection asked for are not in force: a pooler drops them")
    _own_session(connection, another)
    connection.set_autocommit(before)


def _own_session(connection: BoundedConnection, another: Callable[[], BoundedConnection]) -> None:
    """A pooler that shares sessions gives the one used last to whoever comes next: a mark is seen by others."""
    mark = secrets.token_hex(8)
    connection.execute("SELECT set_config(%s, %s, FALSE)", [MARK, mark])
    with another() as other:
        other.answer_limit_s = PING_LIMIT_S
        other.set_autocommit(True)
        theirs = _mark_of(other)
    ours = _mark_of(connection)
    connection.execute("SELECT set_config(%s, '', FALSE)", [MARK])
    if theirs == mark or ours != mark:
        raise SessionsNotOurs("two connections share a session: a pooler in transaction mode stands before Postgres")


def _mark_of(connection: BoundedConnection) -> str | None:
    (mark,) = connection.execute("SELECT current_setting(%s, TRUE)", [MARK]).fetchone() or (None,)
    return mark


def require_sessions(settings: Settings) -> None:
    """Raises UsageError where what stands between here and Postgres is not what the settings say. A database that is
    away is no reason: whoever needs it waits for it, and the first connection is looked at then."""
    try:
        if settings.db_pooler != "transaction":
            _look(settings, conninfo(database_url(settings)), limited=True)
        if settings.database_direct_url.get_secret_value():
            _look(settings, conninfo(direct_database_url(settings)), limited=False)
    except psycopg.OperationalError as error:
        if (reason := pooler_in_the_way(error)) is not None:
            raise UsageError(reason, hint=NEXT_STEP) from error
    except psycopg.Error:
        # Whoever reads of it next says what is wrong with it.
        return


def _look(settings: Settings, address: str, *, limited: bool) -> None:
    def another() -> BoundedConnection:
        if limited:
            return told(BoundedConnection.connect(address, **connect_options(settings)), settings)
        return BoundedConnection.connect(address, connect_timeout=settings.db_connect_timeout_s)

    with another() as connection:
        if limited:
            verify(connection, settings, another)
            return
        connection.answer_limit_s = PING_LIMIT_S
        connection.set_autocommit(True)
        try:
            _own_session(connection, another)
        except SessionsNotOurs as error:
            raise SessionsNotOurs(f"{DIRECT} does not lead past the pooler: {error}") from error


def told(made: BoundedConnection, settings: Settings) -> BoundedConnection:
    """``made``, fresh, once its session knows the limits."""
    if settings.db_pooler == "session":
        try:
            with made.transaction():
                tell(made, settings, transaction=False)
        except BaseException:
            made.close()
            raise
    return made


def pooler_in_the_way(error: BaseException) -> str | None:
    """What a pooler keeps from working, where that is why there is no connection."""
    said = str(error).strip()
    if isinstance(error, SessionsNotOurs):
        return said
    if REFUSED in said:
        at = said.index(REFUSED)
        return f"a pooler stands before Postgres: {said[at:].splitlines()[0]}"
    return None
