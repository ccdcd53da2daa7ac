"""Transactions. The only place that commits, and the only place that knows how a database fails."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, exc, text
from sqlalchemy.orm import Session

from service.database.connection import NEVER, BoundedConnection
from service.database.sessions import NEXT_STEP, connect_options, pooler_in_the_way, tell, told, verify
from service.platform.addresses import database_url
from service.settings import Settings
from spinal.errors import DatabaseUnavailable, Unauthorized

RETRY_HINT = "the request was not carried out or its outcome is unknown; retry with the same Idempotency-Key"
PASSING = frozenset({"25006", "25P03", "25P04"})
"""SQLSTATEs of a database that will take the same statement again soon, which psycopg files under internal errors: read
only while a failover is under way; a transaction ended because this process had been frozen in it."""
DELETED = "SP410"
"""SQLSTATE of the triggers that refuse rows of a tenant whose data are deleted (migration 0020)."""
ANSWER_MARGIN_S = 5.0
"""The server ends a statement before this side gives up on it."""


class Ledger:
    """A pool of connections to one ledger. Create one per process, after any fork."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings)

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """One read-write transaction: committed when the block ends, rolled back when it raises.

        Raises DatabaseUnavailable when the database cannot be reached, answers too late, or the connection
        is lost (the outcome of a commit is then unknown: read back before trying again).
        """
        session = Session(self.engine, expire_on_commit=False)
        try:
            with database_errors():
                yield session
                session.commit()
        finally:
            # After a lost connection even the rollback fails; the pool discards such a connection by itself.
            with database_errors():
                session.close()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One read-only transaction, always rolled back."""
        session = Session(self.engine, expire_on_commit=False)
        try:
            with database_errors():
                session.connection(execution_options={"postgresql_readonly": True})
                yield session
        finally:
            with database_errors():
                session.close()

    def ping(self) -> None:
        """Raise DatabaseUnavailable when the database does not answer."""
        with self.read() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()


class Reads(Protocol):
    """What reading needs of a ledger."""

    def read(self) -> AbstractContextManager[Session]: ...


class Reading:
    """Reads in one read-only transaction, opened by the first of them. Other threads must not read meanwhile."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._open: ExitStack | None = None
        self._session: Session | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """The transaction, which stays open for the next read. Raises DatabaseUnavailable as a ledger does."""
        if self._session is None:
            self._open = ExitStack()
            self._session = self._open.enter_context(self._ledger.read())
        with ExitStack() as undo:
            # A transaction in which something failed serves no further read.
            undo.callback(self.end)
            with database_errors():
                yield self._session
            undo.pop_all()

    def end(self) -> None:
        """Roll it back and give the connection to others; the next read opens another."""
        opened, self._open, self._session = self._open, None, None
        if opened is not None:
            # Nothing was written: a rollback that does not come through takes nothing from what was read.
            with suppress(DatabaseUnavailable):
                opened.close()


@contextmanager
def whole_or_again() -> Iterator[None]:
    """Inside a transaction: what it names of rows that others share may be deleted with its last owner at this moment.
    Nothing was written then; raises DatabaseUnavailable, and the next try makes its own."""
    try:
        yield
    except exc.IntegrityError as error:
        if isinstance(error.orig, psycopg.errors.ForeignKeyViolation):
            raise DatabaseUnavailable("what this shares with others was deleted just now", hint=RETRY_HINT) from error
        raise


def make_engine(settings: Settings) -> Engine:
    """A pooled engine whose waits all end: connect, pool, lock and statement timeouts."""
    url = database_url(settings)
    given = url.query.get("options", "")
    engine = create_engine(
        url,
        # Errors reach logs and callers: they name the statement, and never the documents and digests given to it.
        hide_parameters=True,
        pool_size=settings.db_pool_size,
        max_overflow=0,
        pool_timeout=settings.db_pool_timeout_s,
        connect_args=connect_options(settings, given if isinstance(given, str) else " ".join(given)),
    )
    # What is between here and the database is looked at once.
    verified = settings.db_pooler == "transaction"

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, arguments: Any, options: Any) -> BoundedConnection:
        nonlocal verified

        def another() -> BoundedConnection:
            return told(BoundedConnection.connect(*arguments, **options), settings)

        made = another()
        if not verified:
            try:
                verify(made, settings, another)
            except BaseException:
                made.close()
                raise
            verified = True
        return made

    if settings.db_pooler == "transaction":

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            driver = connection.connection.driver_connection
            assert isinstance(driver, BoundedConnection)
            tell(driver, settings, transaction=True)

    @event.listens_for(engine, "checkout")
    def take(connection: BoundedConnection, _record: Any, _proxy: Any) -> None:
        if not connection.answers():
            if connection.heard_at == NEVER:
                # A new one: what the pool raises where another dies in its hands says nothing of a database.
                raise psycopg.OperationalError("the database hung up on a new connection")
            # The pool opens another in its place, and in that of all as old.
            raise exc.InvalidatePoolError
        connection.answer_limit_s = settings.db_statement_timeout_s + ANSWER_MARGIN_S

    @event.listens_for(engine, "checkin")
    def put_back(connection: BoundedConnection | None, _record: Any) -> None:
        if connection is not None:
            if connection.info.transaction_status == TransactionStatus.IDLE:
                # A read has left it as one that writes whatever the server says of itself: after a failover that may be
                # no.
                connection.read_only = None
            connection.heard_at = time.monotonic()

    return engine


def allow(session: Session, seconds: float) -> None:
    """Let each statement of this transaction take so long, and not as long as others may."""
    session.execute(text("SELECT set_config('statement_timeout', :limit, TRUE)"), {"limit": f"{seconds:.0f}s"})
    connection = session.connection().connection.driver_connection
    if isinstance(connection, BoundedConnection):
        connection.answer_limit_s = seconds + ANSWER_MARGIN_S


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn the ways a database fails into DatabaseUnavailable. Raises Unauthorized where a request that was admitted
    writes for a tenant whose data have been deleted meanwhile."""
    try:
        yield
    except (
        exc.OperationalError,
        exc.InterfaceError,
        exc.InternalError,
        exc.TimeoutError,
        psycopg.OperationalError,
    ) as error:
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, psycopg.InternalError) and cause.sqlstate not in PASSING:
            raise
        reason = pooler_in_the_way(cause)
        raise DatabaseUnavailable(
            f"the database did not answer ({reason or type(cause).__name__})",
            hint=RETRY_HINT if reason is None else NEXT_STEP,
        ) from error
    except exc.DatabaseError as error:
        if getattr(error.orig, "sqlstate", None) == DELETED:
            raise Unauthorized(
                "the API key is unknown, expired or revoked", hint="ask an operator for a key"
            ) from error
        raise
