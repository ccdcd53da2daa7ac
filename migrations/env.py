"""Alembic's entry point: runs on the engine it is handed, under an advisory lock and with short lock waits."""

from alembic import context
from sqlalchemy import Engine, text

from service.database.tables import Record
from service.operations.migrate import LOCK, direct_engine
from service.settings import get_settings

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "10min"


def run(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        connection.commit()
        try:
            connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
            connection.commit()
            context.configure(connection=connection, target_metadata=Record.metadata, compare_type=True)
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
            connection.commit()


handed = context.config.attributes.get("engine")
run(handed if handed is not None else direct_engine(get_settings()))
