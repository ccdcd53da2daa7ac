"""What transactions are held to by what stands before the database, without any pooler here; and how passwords reach
it."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from service.database.sessions import limits, require_sessions
from service.database.unit_of_work import Ledger, allow
from service.platform.addresses import conninfo, database_url
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

DIFFICULT = ["p@ss/w:rd", "a#b?c", "%41", "ü ẞ 密", " two  spaces ", "back\\slash'\"", "a;b&c=d+e"]


@pytest.fixture(params=["none", "session", "transaction"])
def pooled(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    """Settings for every kind of pooler, on the same server."""
    return settings.model_copy(
        update={
            "db_pooler": request.param,
            "database_direct_url": settings.database_url if request.param == "transaction" else SecretStr(""),
            "db_statement_timeout_s": 0.3,
        }
    )


def in_force(session: Any, settings: Settings) -> dict[str, str]:
    found = session.execute(
        text("SELECT lower(name), setting FROM pg_settings WHERE lower(name) = ANY(:names)"),
        {"names": list(limits(settings))},
    )
    return {str(row[0]): str(row[1]) for row in found}


def test_every_transaction_is_held_to_the_limits(pooled: Settings) -> None:
    require_sessions(pooled)
    with closing(Ledger(pooled.model_copy(update={"db_pool_size": 1}))) as ledger:
        for _ in range(2):
            with ledger.read() as session:
                assert in_force(session, pooled) == limits(pooled)
                assert session.scalar(text("SHOW transaction_read_only")) == "on"
            with pytest.raises(DatabaseUnavailable, match="QueryCanceled"), ledger.begin() as session:
                session.execute(text("SELECT pg_sleep(20)"))
            with ledger.begin() as session:
                assert in_force(session, pooled) == limits(pooled)
                allow(session, 5)
                session.execute(text("SELECT pg_sleep(0.5)"))
        # On the engine itself, too, as the check of the migration does.
        with ledger.engine.connect() as connection:
            assert in_force(connection, pooled) == limits(pooled)


def test_a_pooler_of_transactions_is_left_nothing_to_remember(settings: Settings) -> None:
    pooled = settings.model_copy(update={"db_pooler": "transaction", "database_direct_url": settings.database_url})
    with closing(Ledger(pooled.model_copy(update={"db_pool_size": 1}))) as ledger:
        for number in range(12):
            with ledger.begin() as session:
                assert session.scalar(text("SELECT CAST(:n AS int)"), {"n": number}) == number
        with ledger.engine.raw_connection().driver_connection as raw:  # type: ignore[union-attr]  # one is there
            raw.rollback()
            prepared = raw.execute("SELECT count(*) FROM pg_prepared_statements").fetchone()
            set_here = raw.execute("SELECT name FROM pg_settings WHERE source = 'session'").fetchall()
            assert prepared == (0,)
            assert set_here == []


@pytest.fixture(params=DIFFICULT)
def difficult(request: pytest.FixtureRequest, settings: Settings) -> Iterator[tuple[str, str]]:
    """A role, and its password."""
    address = conninfo(database_url(settings))
    role = "with a difficult password"
    with psycopg.connect(address, autocommit=True) as administrator:
        name, secret = psycopg.sql.Identifier(role), psycopg.sql.Literal(request.param)
        administrator.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, secret))
        yield role, request.param
        administrator.execute(psycopg.sql.SQL("DROP ROLE {}").format(name))


def test_a_password_reaches_the_database_as_it_is(settings: Settings, difficult: tuple[str, str]) -> None:
    role, password = difficult
    where = make_url(settings.database_url.get_secret_value())
    apart = f"postgres://{role.replace(' ', '%20')}@{where.host}:{where.port}/{where.database}"
    whole = where.set(username=role, password=password).render_as_string(hide_password=False)
    for given in (Settings(database_url=apart, db_password=password), Settings(database_url=whole)):
        with closing(Ledger(given)) as ledger, ledger.read() as session:
            assert session.scalar(text("SELECT current_user")) == role
        with psycopg.connect(conninfo(database_url(given)), autocommit=True) as listener:
            listener.execute("LISTEN spinal_runs")
