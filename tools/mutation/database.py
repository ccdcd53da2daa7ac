"""One throw-away Postgres for all mutants: starting a server takes longer than most tests."""

import contextlib
from collections.abc import Iterator

import psycopg
from pydantic import SecretStr
from sqlalchemy import make_url

from devstack import throwaway_postgres
from service.operations.migrate import upgrade
from service.settings import Settings

TEMPLATE = "spinal_template"
"""As ``tests/conftest.py`` calls it."""


@contextlib.contextmanager
def throwaway() -> Iterator[str]:
    """URL of the server, as ``tests/conftest.py`` reads it from TESTS_POSTGRES, with the database that tests copy."""
    with throwaway_postgres() as server:
        url = make_url(server.url).set(database=TEMPLATE).render_as_string(hide_password=False)
        with psycopg.connect(_plain(server.url), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{TEMPLATE}"'.encode())
        upgrade(Settings(database_url=SecretStr(url)))
        yield server.url


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def clean(url: str) -> None:
    """Drop the databases that tests left behind."""
    with psycopg.connect(_plain(url), autocommit=True) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 't\\_%'").fetchall()
        for (name,) in left:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
