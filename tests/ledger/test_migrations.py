"""Migrations: one head, up and down again, no drift from the models, safe with rows and in parallel."""

import os
import subprocess
import sys
import uuid
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import create_engine, inspect, text

from service import migrate
from service.settings import Settings
from tests.conftest import create_database


@pytest.fixture
def empty(postgres: Any) -> Settings:
    return Settings(database_url=create_database(postgres.url, f"m_{uuid.uuid4().hex}"))  # type: ignore[arg-type]


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


def test_two_upgrades_at_once_queue_up(empty: Settings) -> None:
    environment = {**os.environ, "SPINAL_DATABASE_URL": empty.database_url.get_secret_value()}
    command_line = [sys.executable, "-m", "service.migrate"]
    running = [subprocess.Popen(command_line, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], errors


def test_the_command_goes_back_to_an_older_migration_and_up_again(
    empty: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "get_settings", lambda: empty)
    engine = create_engine(empty.database_url.get_secret_value())
    for arguments, at in (([], migrate.head()), (["--down-to", "0001"], "0001"), ([], migrate.head())):
        assert migrate.main(arguments) == 0
        assert migrate.current(engine) == at
    engine.dispose()


def test_upgrading_a_database_with_rows_keeps_them(settings: Settings) -> None:
    engine = create_engine(settings.database_url.get_secret_value())
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO models (id, tenant, name, reference) VALUES (gen_random_uuid(), 't', 'n', 'local:x')")
        )
    migrate.upgrade(settings)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM models")).scalar_one() == "n"
    engine.dispose()
