"""What a turn of the dispatcher, a claim and the question for a place read of a long queue: rows and pages, by plans
that were carried out."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger, allow
from service.runs import rings, standing, transitions
from service.settings import Settings
from tests.conftest import HasUrl, create_database
from tests.ledger.rows import MINUTE, put_audit, put_run

MANY = 50_000
TENANTS = 20
LIMIT = 100
ROWS = """
    INSERT INTO runs (id, kind, spec, spec_digest, queue, tenants, rung_at, waits, created_at, not_before)
    SELECT gen_random_uuid(), 'trace', '{}', md5(:name || n), 'cpu', ARRAY[CAST(:tenant AS text)],
      CASE WHEN :rung THEN now() - interval '1 hour' END, :waits, now() - make_interval(secs => 3600 + n),
      now() + make_interval(secs => :pause)
    FROM generate_series(1, :count) AS n"""


def put_many(
    session: Session, count: int, tenant: str, *, rung: bool = False, waits: bool = False, pause: float = 0.0
) -> None:
    given = {"tenant": tenant, "rung": rung, "waits": waits, "pause": pause}
    session.execute(text(ROWS), given | {"count": count, "name": str(given)})


def some_of_each(session: Session) -> None:
    """Waiting for an open dependency, rung and not taken, and a few to ring, by each of some tenants."""
    put_many(session, 20_000, "big", waits=True)
    session.execute(
        text("""INSERT INTO runs (id, kind, spec, spec_digest, queue, state, worker, attempt, lease_until, deadline_at)
                VALUES ('00000000-0000-7000-8000-000000000001', 'trace', '{}', 'needed', 'cpu', 'RUNNING', 'w', 1,
                  now() + interval '1 hour', now() + interval '1 hour')""")
    )
    session.execute(
        text("""INSERT INTO run_dependencies SELECT id, '00000000-0000-7000-8000-000000000001' FROM runs WHERE waits""")
    )
    put_many(session, 30_000, "big", rung=True)
    for number in range(TENANTS):
        put_many(session, 1, f"small {number}", rung=True)
        put_many(session, 2, f"small {number}")


def unrung(session: Session) -> None:
    """Of one tenant, one of another, and of a third what was handed back and whose time has not come."""
    put_many(session, MANY, "big")
    put_many(session, 1, "small")
    put_many(session, 5_000, "late", pause=3600.0)


@dataclass
class Read:
    """What statements have read."""

    rows: int = 0
    pages: int = 0
    scanned: set[str] = field(default_factory=set)
    """Tables read from their beginning on."""

    def add(self, plan: dict[str, Any]) -> None:
        self.pages += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        self._add(plan)

    def _add(self, node: dict[str, Any]) -> None:
        if "Relation Name" in node and "Scan" in node["Node Type"]:
            removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
            self.rows += (node["Actual Rows"] + removed) * node["Actual Loops"]
            if node["Node Type"] == "Seq Scan":
                self.scanned.add(node["Relation Name"])
        for child in node.get("Plans", []):
            self._add(child)


@contextmanager
def reading(session: Session) -> Iterator[Read]:
    """Carries out every statement twice: with its plan, which is undone, and as it is."""
    read = Read()

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().split()[0] not in ("SELECT", "WITH", "UPDATE", "INSERT"):
            return
        with connection.connection.cursor() as cursor:
            cursor.execute("SAVEPOINT explained")
            cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
            [(found,)] = cursor.fetchall()
            cursor.execute("ROLLBACK TO SAVEPOINT explained")
        plans = json.loads(found) if isinstance(found, str) else found
        read.add(plans[0]["Plan"])

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", explain)
    try:
        yield read
    finally:
        event.remove(engine, "before_cursor_execute", explain)


@pytest.fixture(params=[some_of_each, unrung], scope="module")
def queue(request: pytest.FixtureRequest, postgres: HasUrl, migrated_template: str) -> Iterator[Ledger]:
    """A database of its own: what it leaves behind would slow down others."""
    with create_database(postgres.url, f"q_{uuid.uuid4().hex}", migrated_template) as url:
        opened = Ledger(Settings(database_url=SecretStr(url), db_statement_timeout_s=120.0))
        with opened.begin() as session:
            # What the triggers would do row by row is written at once.
            session.execute(text("SET LOCAL session_replication_role = replica"))
            session.execute(text("ALTER TABLE runs SET (autovacuum_enabled = FALSE)"))
            request.param(session)
        yield opened
        opened.close()


def ring(session: Session) -> int:
    return len(rings.due_runs(session, ring_again_s=60.0, again=(), limit=LIMIT))


def ring_again(session: Session) -> int:
    return len(rings.due_runs(session, ring_again_s=60.0, again=("cpu",), limit=LIMIT))


def look_for_lost_doorbells(session: Session) -> int:
    return sum(rings.unanswered(session, ring_again_s=60.0).values())


def start(session: Session) -> int:
    rings.due_runs(session, ring_again_s=60.0, again=(), limit=1)
    rung = session.execute(text("SELECT id FROM runs WHERE rung_at IS NOT NULL LIMIT 1")).scalar_one()
    with reading(session) as read:
        best = rings.next_run(session, rung)
        assert best is not None
        assert transitions.claim(session, best.run_id, worker="me", lease_s=60.0, deadline_s=60.0) is not None
    check(read, 1)
    return 1


def check(read: Read, did: int) -> None:
    assert "runs" not in read.scanned
    # Each line is found by one look at an index, and each run that is rung is read, written, and asked what it waited
    # for; a look at an index takes a handful of pages.
    assert read.rows <= 10 * (did + 2 * TENANTS), read
    assert read.pages <= 100 * (did + 2 * TENANTS), read


@pytest.mark.parametrize("act", [ring, ring_again, look_for_lost_doorbells, start])
@pytest.mark.parametrize("with_statistics", [False, True])
def test_a_turn_costs_what_it_rings_however_long_the_queue(
    queue: Ledger, act: Callable[[Session], int], with_statistics: bool
) -> None:
    """Whether the database has come to know of the queue, or it has grown just now."""
    with Session(queue.engine) as session:
        if with_statistics:
            session.execute(text("ANALYZE"))
        assert session.execute(text("SELECT count(*) FROM runs")).scalar_one() >= MANY
        if act is start:
            start(session)
        else:
            with reading(session) as read:
                did = act(session)
            assert did <= LIMIT
            check(read, did)
        session.rollback()


HISTORY = """
    WITH made AS (
      INSERT INTO runs (id, kind, spec, spec_digest, queue, tenants, state, result_digest, finished_at)
      SELECT gen_random_uuid(), 'trace', '{}', md5('done' || n), 'cpu', '{big}', 'SUCCEEDED', md5('done' || n),
        now() - n * interval '1 ms' FROM generate_series(1, 20000) AS n RETURNING id, finished_at)
    INSERT INTO run_attempts (run_id, attempt, worker, started_at, ended_at, outcome)
    SELECT id, 1, 'w', finished_at - interval '30 s', finished_at, 'succeeded' FROM made"""


@pytest.mark.parametrize("with_statistics", [False, True])
def test_a_place_costs_what_is_told_however_long_the_queue_and_the_history(
    queue: Ledger, with_statistics: bool
) -> None:
    """The last of a tenant with most of the queue, one of a tenant that has nothing else, one behind all others, and
    one of a queue of its own, for which nobody works."""
    with Session(queue.engine) as session:
        allow(session, 120.0)
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(HISTORY))
        session.execute(text("SET LOCAL session_replication_role = origin"))
        if with_statistics:
            session.execute(text("ANALYZE"))
        for tenant, members in (("big", {}), ("new", {}), ("new", {"priority": -1}), ("new", {"queue": "other"})):
            run = put_run(session, tenants=[tenant], rung_at=MINUTE, **members)
            audit = put_audit(session, tenant=tenant, runs={"candidate": run})
            with reading(session) as read:
                place = standing.find_standing(session, audit)
            assert place is not None
            assert place.own is not None
            assert place.more is (tenant == "big" or "priority" in members)
            assert "runs" not in read.scanned
            assert "run_attempts" not in read.scanned
            # Both numbers are counted to one more than is told; lines are found in each of two indexes, some twice; an
            # attempt that is looked at is two rows. Some of the queue's oldest runs, and what is being carried out.
            counted = 2 * (standing.MOST + 1) + 8 * (TENANTS + 2) + 2 * standing.LATEST_ATTEMPTS
            assert read.rows <= counted + 100, (read, place)
            assert read.pages <= 3 * counted, (read, place)
        session.rollback()


def test_a_scan_would_be_seen(queue: Ledger) -> None:
    with Session(queue.engine) as session, reading(session) as read:
        session.execute(text("SELECT count(*) FROM runs WHERE kind = 'trace'"))
    assert read.scanned == {"runs"}
    assert read.rows >= MANY
