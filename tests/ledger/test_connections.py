"""A connection from the pool answers: whoever takes it is told, or gets another."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from traceback import format_exception
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.pool import QueuePool

from service.database import connection as connections
from service.database.connection import BoundedConnection, NoAnswer
from service.database.unit_of_work import Ledger
from service.platform.addresses import conninfo, database_url
from service.settings import Settings
from spinal.errors import DatabaseUnavailable
from tests.support.waiting import until


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[BoundedConnection]:
    """The connections that were asked whether they answer."""
    seen: list[BoundedConnection] = []
    execute = BoundedConnection.execute

    def see(self: BoundedConnection, *args: Any, **options: Any) -> Any:
        seen.append(self)
        return execute(self, *args, **options)

    monkeypatch.setattr(BoundedConnection, "execute", see)
    return seen


def who(ledger: Ledger) -> int:
    with ledger.read() as session:
        return int(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def test_a_connection_heard_a_moment_ago_is_not_asked_and_one_of_long_ago_is(
    ledger: Ledger, asked: list[BoundedConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = who(ledger)
    asked.clear()
    assert who(ledger) == first
    assert asked == []
    monkeypatch.setattr(connections, "HEARD_LATELY_S", 0.0)
    assert who(ledger) == first
    assert len(asked) == 1


def test_a_connection_that_the_server_has_closed_is_replaced_however_lately_it_was_heard(ledger: Ledger) -> None:
    with ledger.engine.connect() as other:
        lost = who(ledger)
        other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": lost})
        assert who(ledger) != lost


def test_the_first_answer_of_a_transaction_has_to_come_as_soon_as_one_to_a_question(ledger: Ledger) -> None:
    limits: list[float | None] = []
    event.listen(ledger.engine, "checkout", lambda raw, *_: limits.append(raw.first_limit_s))
    who(ledger)
    who(ledger)
    assert limits[-1] == connections.PING_LIMIT_S
    with ledger.engine.connect() as taken:
        raw = taken.connection.driver_connection
        assert isinstance(raw, BoundedConnection)
        taken.execute(text("SELECT 1"))
        raw.first_limit_s = 0.3
        with pytest.raises(NoAnswer):
            raw.execute("SELECT pg_sleep(2)")
        taken.invalidate()
    with ledger.engine.connect() as taken:
        taken.execute(text("SELECT 1"))
        assert taken.execute(text("SELECT pg_sleep(0.5) IS NOT NULL")).scalar()


def test_an_error_names_the_statement_and_nothing_that_was_given_to_it(ledger: Ledger) -> None:
    document = "what a caller asked in private"
    with pytest.raises(ProgrammingError, match="SELECT 1 FROM nowhere") as failed, ledger.read() as session:
        session.execute(text("SELECT 1 FROM nowhere WHERE x = :x"), {"x": document})
    assert document not in "".join(format_exception(failed.value))


MOMENTS = [
    "connect", "checkout", "begin", "before_cursor_execute", "after_cursor_execute", "commit", "rollback", "checkin",
]  # fmt: skip


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_connection_that_dies_at_any_moment_is_a_database_that_did_not_answer(
    settings: Settings, moment: str, times: int
) -> None:
    """Or it is not noticed, and the work is done."""
    ledger, left = Ledger(settings), times
    with psycopg.connect(conninfo(database_url(settings)), autocommit=True) as other:

        def kill(first: Any, *_: Any) -> None:
            nonlocal left
            raw = first if isinstance(first, BoundedConnection) else first.connection.driver_connection
            if left and not raw.closed:
                left -= 1
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [raw.info.backend_pid])

        event.listen(ledger.engine, moment, kill)
        for work in WORK * 3:
            done(work, ledger)
        assert left < times
        left = 0
        assert isinstance(ledger.engine.pool, QueuePool)
        assert ledger.engine.pool.checkedout() == 0
        for work in WORK:
            until(partial(done, work, ledger), "the database to be there again")
    ledger.close()


def done(work: Callable[[Ledger], None], ledger: Ledger) -> bool:
    with suppress(DatabaseUnavailable):
        work(ledger)
        return True
    return False


def read(ledger: Ledger) -> None:
    with ledger.read() as session:
        session.execute(text("SELECT 1"))


def write(ledger: Ledger) -> None:
    with ledger.begin() as session:
        session.execute(text("UPDATE audits SET priority = 0"))


def write_in_part(ledger: Ledger) -> None:
    with ledger.begin() as session, session.begin_nested():
        session.execute(text("UPDATE audits SET priority = 0"))


WORK = (read, write, write_in_part)
