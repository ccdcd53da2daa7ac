"""Migrations: one head, up and down again, no drift from the models, safe with rows and in parallel."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, create_engine, exc, inspect, text
from sqlalchemy.orm import Session

from service.database.tables import Record
from service.operations import migrate
from service.operations.invariants import violations
from service.runs import transitions
from service.settings import Settings
from service.tenants.counts import COUNTED, hold_counts
from tests.cli.test_cli import spinal
from tests.conftest import create_database
from tests.ledger.rows import put, put_audit, put_dependency, put_member, put_run, put_series


@pytest.fixture
def empty(postgres: Any) -> Iterator[Settings]:
    with create_database(postgres.url, f"m_{uuid.uuid4().hex}") as url:
        yield Settings(database_url=url)


def test_there_is_one_head() -> None:
    assert len(ScriptDirectory.from_config(migrate.config()).get_heads()) == 1


def test_every_step_goes_up_down_and_up_again(empty: Settings) -> None:
    engine = create_engine(empty.database_url.get_secret_value())
    for script in reversed(list(ScriptDirectory.from_config(migrate.config()).walk_revisions())):
        migrate.upgrade(empty, script.revision)
        migrate.downgrade(empty, str(script.down_revision or "base"))
        migrate.upgrade(empty, script.revision)
    assert migrate.current(engine) == migrate.head()
    migrate.downgrade(empty, "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    left = engine.connect().execute(text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'spinal%'")).scalar()
    assert left == 0
    engine.dispose()


def test_models_and_migrations_do_not_drift(settings: Settings) -> None:
    engine = create_engine(settings.database_url.get_secret_value())
    try:
        command.check(migrate.config(engine))
    except CommandError as error:
        pytest.fail(f"alembic check: {error}")
    finally:
        engine.dispose()


DEFINITIONS = """
    SELECT conrelid::regclass::text || ' ' || conname AS name, pg_get_constraintdef(oid) AS definition
      FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND conrelid <> 0
    UNION ALL SELECT tablename || ' ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
"""


def test_constraints_and_indexes_of_models_and_migrations_are_the_same(empty: Settings, settings: Settings) -> None:
    """Alembic compares neither conditions of checks nor those of partial indexes."""
    found = []
    for place in (empty, settings):
        engine = create_engine(place.database_url.get_secret_value())
        if place is empty:
            Record.metadata.create_all(engine)
        with engine.connect() as connection:
            rows = connection.execute(text(DEFINITIONS)).all()
        found.append({row.name: row.definition for row in rows if not row.name.startswith("alembic_version ")})
        engine.dispose()
    assert found[0] == found[1]


def test_two_upgrades_at_once_queue_up(empty: Settings) -> None:
    environment = {**os.environ, "SPINAL_DATABASE_URL": empty.database_url.get_secret_value()}
    command_line = [sys.executable, "-m", "spinal.cli.main", "database", "upgrade"]
    running = [subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors


def test_the_command_goes_back_to_an_older_migration_and_up_again(empty: Settings) -> None:
    url = empty.database_url.get_secret_value()
    engine = create_engine(url)
    for arguments, at in (
        (["upgrade"], migrate.head()),
        (["downgrade", "0001"], "0001"),
        (["upgrade"], migrate.head()),
    ):
        done = spinal("database", *arguments, "--json", SPINAL_DATABASE_URL=url)
        assert (done.returncode, json.loads(done.stdout)["revision"]) == (0, at), done.stderr
        assert migrate.current(engine) == at
    engine.dispose()


def test_a_migration_that_does_not_exist_is_refused(empty: Settings) -> None:
    done = spinal("database", "downgrade", "0099", SPINAL_DATABASE_URL=empty.database_url.get_secret_value())
    assert done.returncode == 2
    assert "0099" in done.stderr


KEPT = {"models": 1, "traces": 1, "runs": 8, "run_attempts": 6, "audits": 1}
ROWS = """
    INSERT INTO models (id, tenant, name, reference) VALUES (gen_random_uuid(), 't', 'n', 'local:x');
    INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source, n_layers,
      document, content_digest) VALUES ('d', 'w', 'p', 'f', '1', 's', 0, '{}', 'c');
    INSERT INTO runs (id, kind, spec, spec_digest, queue, state, result_digest, attempt, charged_attempts, finished_at,
      cancel_requested)
    SELECT gen_random_uuid(), 'trace', '{}', digest, 'cpu', 'SUCCEEDED', 'd', 1, 1, now() - make_interval(secs => age),
      flagged FROM (VALUES ('once', 1, FALSE), ('twice', 5, FALSE), ('twice', 9, FALSE), ('again', 1, FALSE),
      ('given up', 1, TRUE)) AS v(digest, age, flagged);
    INSERT INTO runs (id, kind, spec, spec_digest, queue) VALUES (gen_random_uuid(), 'trace', '{}', 'again', 'cpu');
    INSERT INTO runs (id, kind, spec, spec_digest, queue, cancel_requested)
      VALUES (gen_random_uuid(), 'trace', '{}', 'stuck', 'cpu', TRUE);
    INSERT INTO runs (id, kind, spec, spec_digest, queue, state, attempt, charged_attempts, worker, lease_until,
      deadline_at) VALUES (gen_random_uuid(), 'trace', '{}', 'at work', 'cpu', 'RUNNING', 1, 1, 'w', now(), now());
    INSERT INTO run_attempts (run_id, attempt, worker, ended_at, outcome)
      SELECT id, 1, 'w', finished_at, CASE WHEN state = 'SUCCEEDED' THEN 'succeeded' END FROM runs WHERE attempt = 1;
    INSERT INTO audits (id, tenant, candidate, request, spec) VALUES (gen_random_uuid(), 't', 'c', '{}', '{}')
"""
"""A ledger as the first release could leave it."""


def test_upgrading_a_database_with_rows_keeps_and_repairs_them(empty: Settings) -> None:
    migrate.upgrade(empty, "0001")
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        for statement in ROWS.split(";\n"):
            connection.execute(text(statement))
    migrate.upgrade(empty)
    with engine.connect() as connection:
        counts = {table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() for table in KEPT}
        found = connection.execute(
            text("SELECT spec_digest, state, cancel_requested FROM runs ORDER BY 1, 2, 3, finished_at")
        ).all()
        versions = connection.execute(
            text("""SELECT m.name, v.version, v.number, v.reference, v.created_at = m.created_at FROM model_versions v
                    JOIN models m ON m.id = v.model_id""")
        ).all()
    assert counts == KEPT
    assert [tuple(each) for each in versions] == [("n", "1", 1, "local:x", True)]
    assert [tuple(row) for row in found] == [
        ("again", "QUEUED", False),
        ("again", "SUCCEEDED", True),
        ("at work", "RUNNING", False),
        ("given up", "SUCCEEDED", True),
        ("once", "SUCCEEDED", False),
        ("stuck", "CANCELLED", True),
        ("twice", "SUCCEEDED", False),
        ("twice", "SUCCEEDED", True),
    ]
    migrate.downgrade(empty, "0001")
    migrate.upgrade(empty)
    engine.dispose()


SETS = """
    INSERT INTO prompt_sets (digest, name, prompts, continuations, count) VALUES
      ('own', 'mine', '[]', '[]', 0), ('shared', 'of the first', '[]', '[]', 0), ('unused', 'u', '[]', '[]', 0);
    INSERT INTO audits (id, tenant, candidate, request, spec)
      SELECT gen_random_uuid(), tenant, 'c', '{}',
        jsonb_build_object('prompt_set', jsonb_build_object('digest', digest))
      FROM (VALUES ('a', 'own'), ('a', 'own'), ('a', 'shared'), ('b', 'shared'), ('b', 'built in')) AS v(tenant, digest)
"""


def test_prompt_sets_are_given_to_those_who_have_asked_for_them(empty: Settings) -> None:
    migrate.upgrade(empty, "0008")
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        for statement in SETS.split(";\n"):
            connection.execute(text(statement))
    migrate.upgrade(empty)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT tenant, digest, name FROM tenant_prompt_sets ORDER BY 1, 2")).all()
    # What more than one tenant has may have its name from another.
    assert [tuple(each) for each in found] == [("a", "own", "mine"), ("a", "shared", None), ("b", "shared", None)]
    migrate.downgrade(empty, "0008")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM prompt_sets")).scalar_one() == 3
    engine.dispose()


A_RUN = "INSERT INTO runs (id, kind, spec, spec_digest, queue) VALUES (:id, :kind, '{}', CAST(:id AS text), 'cpu')"
AN_AUDIT = "INSERT INTO audits (id, tenant, candidate, request, spec) VALUES (:id, 't', 'c', '{}', '{}')"
A_ROLE = "INSERT INTO audit_runs (audit_id, role, run_id) VALUES (:audit, :role, :run)"
KINDS_BEFORE, ROLES_BEFORE = ("trace", "compare"), ("candidate", "reference", "control", "compare")


def insert_kinds_and_roles(connection: Connection, kinds: Sequence[str], roles: Sequence[str]) -> None:
    audit = {"id": uuid.uuid4()}
    connection.execute(text(AN_AUDIT), audit)
    runs = [{"id": uuid.uuid4(), "kind": kind} for kind in kinds]
    connection.execute(text(A_RUN), runs)
    connection.execute(text(A_ROLE), [{"audit": audit["id"], "role": role, "run": runs[0]["id"]} for role in roles])


def test_kinds_and_roles_of_before_are_kept_up_and_down(empty: Settings) -> None:
    migrate.upgrade(empty, "0004")
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        insert_kinds_and_roles(connection, KINDS_BEFORE, ROLES_BEFORE)
    migrate.upgrade(empty)
    with engine.begin() as connection:
        insert_kinds_and_roles(connection, KINDS_BEFORE, ROLES_BEFORE)
    migrate.downgrade(empty, "0004")
    for kinds, roles in ((("series",), ("candidate",)), (("trace",), ("member",))):
        with pytest.raises(exc.IntegrityError, match="violates check"), engine.begin() as connection:
            insert_kinds_and_roles(connection, kinds, roles)
    engine.dispose()


@pytest.mark.parametrize(("kind", "role"), [("series", "candidate"), ("trace", "member")])
def test_going_back_is_refused_while_there_are_rows_that_older_code_cannot_read(
    empty: Settings, kind: str, role: str
) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        insert_kinds_and_roles(connection, [kind], [role])
    done = spinal("database", "downgrade", "0004", SPINAL_DATABASE_URL=empty.database_url.get_secret_value())
    assert done.returncode == 2
    assert f"does not know: {'series' if kind == 'series' else 'member'}" in done.stderr
    assert migrate.current(engine) == migrate.head()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT kind FROM runs")).scalars().all() == [kind]
    engine.dispose()


TRACE = """INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source, n_layers,
    document, content_digest, content_digest_rfc8785, later)
  VALUES ('d', 'w', 'p', 'f', '3', 's', 0, '{}', 'c', 'whole', CAST(:later AS jsonb))"""


@pytest.mark.parametrize(
    ("later", "goes_back"),
    [
        ("{}", True),
        ('{"reading": {"tokenizer": null, "vocabulary": null}, "vocabulary": {"ids": 7}}', True),
        ('{"reading": {"tokenizer": null, "vocabulary": 7}}', False),
    ],
)
def test_going_back_takes_from_traces_what_older_code_does_not_know_unless_their_names_rest_on_it(
    empty: Settings, later: str, goes_back: bool
) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        connection.execute(text(TRACE), {"later": later})
    done = spinal("database", "downgrade", "0010", SPINAL_DATABASE_URL=empty.database_url.get_secret_value())
    assert (done.returncode == 0) == goes_back, done.stderr
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT content_digest_rfc8785 FROM traces")).scalar_one()
    # The digest over members that went with the column would not recompute.
    assert kept == ("whole" if later == "{}" or not goes_back else None)
    assert (migrate.current(engine) == migrate.head()) == (not goes_back)
    if not goes_back:
        assert "1 traces were read with another tokenizer" in done.stderr
    engine.dispose()


@pytest.mark.parametrize("name", ["", "Trace", "trace2", "_trace", "tr ace", "trace\n", "t" * 33])
def test_a_kind_and_a_role_have_plain_short_names(settings: Settings, name: str) -> None:
    engine = create_engine(settings.database_url.get_secret_value())
    for kinds, roles in (((name,), ("candidate",)), (("trace",), (name,))):
        with pytest.raises(exc.IntegrityError, match="violates check"), engine.begin() as connection:
            insert_kinds_and_roles(connection, kinds, roles)
    engine.dispose()


LATER = """
    INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source, n_layers,
      document, content_digest) VALUES ('d', 'w', 'p', 'f', '3', 's', 0, '{}', 'c');
    INSERT INTO runs (id, kind, spec, spec_digest, spec_version, queue, state, attempt, charged_attempts, worker,
      lease_until, deadline_at, result_digest, finished_at)
    SELECT CAST(repeat(n, 32) AS uuid), 'trace', '{}', n, version, 'cpu', state,
      CAST(state <> 'QUEUED' AS int), CAST(state <> 'QUEUED' AS int), 'w',
      CASE state WHEN 'RUNNING' THEN now() END, now(), CASE state WHEN 'SUCCEEDED' THEN 'd' END,
      CASE state WHEN 'SUCCEEDED' THEN now() END
    FROM (VALUES ('1', 4, 'QUEUED'), ('2', 4, 'RUNNING'), ('3', 4, 'SUCCEEDED'), ('4', 3, 'QUEUED'),
      ('5', 3, 'RUNNING')) AS v(n, version, state);
    INSERT INTO run_attempts (run_id, attempt, worker, ended_at, outcome)
    SELECT id, 1, 'w', finished_at, CASE state WHEN 'SUCCEEDED' THEN 'succeeded' END FROM runs WHERE attempt = 1;
    INSERT INTO audits (id, tenant, candidate, request, spec)
      SELECT id, 't', 'c', '{}', '{}' FROM runs WHERE state <> 'SUCCEEDED';
    INSERT INTO audit_runs (audit_id, role, run_id) SELECT id, 'candidate', id FROM audits
"""
"""A ledger of this release in the middle of work, with work that the release before accepted beside its own."""


def test_on_the_way_back_what_only_this_release_could_do_ends_and_the_rest_goes_on(empty: Settings) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        for statement in LATER.split(";\n"):
            connection.execute(text(statement))
    migrate.downgrade(empty, "0009")
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT spec_digest, state, error->>'code' FROM runs ORDER BY 1")).all()
        audits = connection.execute(text("SELECT id, state, error->>'code' FROM audits ORDER BY 1")).all()
        attempts = connection.execute(text("SELECT outcome FROM run_attempts ORDER BY run_id")).scalars().all()
    engine.dispose()
    gone, left = ("FAILED", "version_retired"), ("QUEUED", None)
    assert [tuple(run) for run in runs] == [
        ("1", *gone), ("2", *gone), ("3", "SUCCEEDED", None), ("4", *left), ("5", "RUNNING", None),
    ]  # fmt: skip
    assert [(str(each.id)[0], *each[1:]) for each in audits] == [("1", *gone), ("2", *gone), ("4", *left), ("5", *left)]
    assert attempts == ["failed", "succeeded", None]


KEPT_APART = """
    INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source, n_layers,
      document, content_digest) VALUES ('d', 'w', 'p', 'f', '4', 's', 0, '{}', 'c');
    INSERT INTO comparisons (digest, reference_digest, candidate_digest, comparison_fingerprint, document, later,
      content_digest_rfc8785)
      VALUES ('whole', 'd', 'd', 'f', '{"a": 1}', '{"accounts": 2}', 'x'), ('plain', 'd', 'd', 'f', '{}', '{}', 'y');
    INSERT INTO prompt_sets (digest, prompts, continuations, later, count)
      VALUES ('pairs', '[]', '[]', '{"prompts": ["why?"], "rejected": [" no."]}', 1)
"""


@pytest.mark.parametrize("back_to", ["0011", "0004"])
def test_what_older_code_does_not_know_of_comparisons_and_prompts_is_there_again_after_a_way_back(
    empty: Settings, back_to: str
) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        for statement in KEPT_APART.split(";\n"):
            connection.execute(text(statement))
    migrate.downgrade(empty, back_to)
    with engine.begin() as connection:
        # As older code reads, and as it writes.
        assert connection.execute(text("SELECT prompts, continuations FROM prompt_sets")).one() == ([], [])
        connection.execute(
            text("INSERT INTO prompt_sets (digest, prompts, continuations, count) VALUES ('n','[]','[]',0)")
        )
        with pytest.raises(exc.DBAPIError), connection.begin_nested():
            connection.execute(text("UPDATE comparisons SET document = '{}'"))
    if back_to == "0011":
        with engine.connect() as connection:
            digests = connection.execute(
                text("SELECT digest, content_digest_rfc8785 FROM comparisons ORDER BY digest")
            ).all()
        # It is over members that older code does not read.
        assert [tuple(each) for each in digests] == [("plain", "y"), ("whole", None)]
    migrate.upgrade(empty)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT digest, document, later FROM comparisons ORDER BY digest")).all()
        sets = connection.execute(text("SELECT digest, later FROM prompt_sets ORDER BY digest")).all()
    engine.dispose()
    assert [tuple(each) for each in found] == [("plain", {}, {}), ("whole", {"a": 1}, {"accounts": 2})]
    assert [tuple(each) for each in sets] == [("n", {}), ("pairs", {"prompts": ["why?"], "rejected": [" no."]})]


def test_on_the_way_back_to_main_before_accounts_only_their_work_ends(empty: Settings) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with engine.begin() as connection:
        for statement in LATER.split(";\n"):
            connection.execute(text(statement.replace("('2', 4, 'RUNNING')", "('2', 5, 'RUNNING')")))
    migrate.downgrade(empty, "0011")
    with engine.connect() as connection:
        runs = connection.execute(text("SELECT spec_digest, state, error->>'code' FROM runs ORDER BY 1")).all()
    engine.dispose()
    assert [tuple(run) for run in runs] == [
        ("1", "QUEUED", None), ("2", "FAILED", "version_retired"), ("3", "SUCCEEDED", None), ("4", "QUEUED", None),
        ("5", "RUNNING", None),
    ]  # fmt: skip


def test_on_the_way_back_series_go_and_their_members_stay_as_audits(empty: Settings) -> None:
    migrate.upgrade(empty)
    engine = create_engine(empty.database_url.get_secret_value())
    with Session(engine) as session:
        audit = put_member(session, put_series(session), 7)
        session.commit()
    migrate.downgrade(empty, "0014")
    assert not {"series", "series_members"} & set(inspect(engine).get_table_names())
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, state FROM audits")).all() == [(audit, "QUEUED")]
    migrate.upgrade(empty)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, series FROM audits")).all() == [(audit, None)]
    engine.dispose()


def common(connection: Connection, columns: dict[str, set[str]]) -> dict[str, list[str]]:
    """All rows of tables, by the columns named."""
    return {
        table: sorted(
            connection.execute(text(f"SELECT CAST(({', '.join(sorted(names))}) AS text) FROM {table}")).scalars()
        )
        for table, names in columns.items()
    }


def test_a_way_back_behind_turns_and_counts_keeps_every_row_and_the_way_up_counts_what_was_done_meanwhile(
    empty: Settings,
) -> None:
    """Two tenants share a run that waits and one that runs; the release before goes on with them, and comes back."""
    migrate.upgrade(empty, "0016")
    engine = create_engine(empty.database_url.get_secret_value())
    known = {
        table: {column["name"] for column in inspect(engine).get_columns(table)}
        for table in inspect(engine).get_table_names()
        if table != "alembic_version"
    }
    migrate.upgrade(empty)
    with Session(engine) as session:
        needed, compare, alone = (
            put_run(session, depth=depth, tenants=tenants, spec={"tenant": tenants[-1]})
            for depth, tenants in ((0, ["ours", "theirs"]), (1, ["ours", "theirs"]), (0, ["ours"]))
        )
        put_dependency(session, compare, needed)
        for tenant in ("ours", "theirs"):
            shared = {"candidate": needed, "compare": compare} | ({"control": alone} if tenant == "ours" else {})
            audit = put_audit(session, tenant=tenant, runs=shared)
            put(session, "idempotency_keys", tenant=tenant, key="k", body_digest="b", audit_id=audit, status=202)
        put(session, "prompt_sets", digest="d", prompts="[]", continuations="[]", count=0)
        put(session, "tenant_prompt_sets", tenant="ours", digest="d")
        assert transitions.claim(session, needed, worker="w", lease_s=60.0, deadline_s=60.0) is not None
        put(session, "traces", **STORED)
        session.commit()
        told = {name: row_of(session, run) for name, run in (("needed", needed), ("compare", compare))}
        assert told == {"needed": (["ours", "theirs"], False), "compare": (["ours", "theirs"], True)}
    with engine.connect() as connection:
        before = common(connection, known)
        own = connection.execute(text("SELECT id FROM installation")).scalar_one()
    migrate.downgrade(empty, "0016")
    with engine.begin() as connection:
        assert common(connection, known) == before
        # As the release before goes on: it ends one run, and one tenant asks again.
        connection.execute(
            text("""UPDATE runs SET state = 'SUCCEEDED', result_digest = 'd', finished_at = now(), lease_until = NULL
                    WHERE id = :id"""),
            {"id": needed},
        )
        connection.execute(text("UPDATE run_attempts SET outcome = 'succeeded', ended_at = now()"))
        connection.execute(
            text("INSERT INTO audits (id, tenant, candidate, request, spec) VALUES (:id, 'ours', 'c', '{}', '{}')"),
            {"id": uuid.uuid4()},
        )
    migrate.upgrade(empty)
    with Session(engine) as session:
        assert row_of(session, compare) == (["ours", "theirs"], False)
        assert row_of(session, alone) == (["ours"], False)
        held = {tenant: hold_counts(session, tenant, *COUNTED) for tenant in ("ours", "theirs")}
        assert held == {
            "ours": {"open_audits": 2, "idempotency_keys": 1, "prompt_sets": 1, "prompt_bytes": 6},
            "theirs": {"open_audits": 1, "idempotency_keys": 1, "prompt_sets": 0, "prompt_bytes": 0},
        }
        assert session.execute(text("SELECT id FROM installation")).scalar_one() == own
        assert "what tenants hold is counted" not in violations(session)
    engine.dispose()


STORED = {
    "digest": "d", "weights_digest": "w", "prompt_set_digest": "p", "fingerprint": "f", "engine_version": "4",
    "source": "s", "n_layers": 0, "document": {}, "content_digest": "c",
}  # fmt: skip


def row_of(session: Session, run: uuid.UUID) -> tuple[list[str], bool]:
    found = session.execute(text("SELECT tenants, waits FROM runs WHERE id = :id"), {"id": run}).one()
    return found.tenants, found.waits
