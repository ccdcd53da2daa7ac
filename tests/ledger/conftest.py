"""One database for all tests that leave nothing behind in it."""

import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from sqlalchemy.orm import Session

from service.database.unit_of_work import Ledger
from service.settings import Settings
from tests.conftest import HasUrl, create_database


@pytest.fixture(scope="session")
def shared_ledger(postgres: HasUrl, migrated_template: str) -> Iterator[Ledger]:
    """A migrated database that every test finds empty: none commits."""
    with create_database(postgres.url, f"t_{uuid.uuid4().hex}", migrated_template) as url:
        opened = Ledger(Settings(database_url=SecretStr(url)))
        yield opened
        opened.close()


@pytest.fixture
def session(shared_ledger: Ledger) -> Iterator[Session]:
    """One transaction, undone afterwards: now() is one moment from its first statement to its last."""
    with Session(shared_ledger.engine) as opened:
        yield opened
        opened.rollback()
