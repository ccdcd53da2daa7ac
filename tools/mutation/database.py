"""One throw-away Postgres for all mutants: starting a server takes longer than most tests."""

import contextlib
from collections.abc import Iterator

import psycopg
from sqlalchemy import make_url

from devstack import throwaway_postgres


@contextlib.contextmanager
def throwaway() -> Iterator[str]:
    """URL of the server, as ``tests/conftest.py`` reads it from TESTS_POSTGRES."""
    with throwaway_postgres() as server:
        yield server.url


def clean(url: str) -> None:
    """Drop the databases that tests left behind."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 't\\_%'").fetchall()
        for (name,) in left:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)'.encode())
