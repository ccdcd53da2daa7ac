"""``spinal doctor`` on ledgers that are well, broken and away."""

import json

from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.settings import Settings
from tests.cli.test_cli import spinal
from tests.conftest import HasUrl, create_database


def test_a_ledger_that_is_well(settings: Settings) -> None:
    done = spinal("doctor", SPINAL_DATABASE_URL=settings.database_url.get_secret_value())
    assert (done.returncode, done.stdout) == (0, "")
    assert "invariants hold" in done.stderr
    found = spinal("doctor", "--json", SPINAL_DATABASE_URL=settings.database_url.get_secret_value())
    assert (found.returncode, json.loads(found.stdout)) == (0, {})


def test_a_broken_ledger_shows_its_offenders(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    broken = Ledger(settings)
    with broken.begin() as session:
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER audits_terminal"))
        session.execute(
            text("""INSERT INTO audits (id, tenant, candidate, request, spec)
                    VALUES ('00000000-0000-7000-8000-000000000001', 't', 'c', '{}', '{}')""")
        )
    broken.close()
    done = spinal("doctor", SPINAL_DATABASE_URL=url)
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "an open audit has work left": ["00000000-0000-7000-8000-000000000001"],
        "ended rows are guarded": ["audits_terminal"],
    }


def test_a_ledger_that_cannot_be_read(postgres: HasUrl) -> None:
    with create_database(postgres.url, "not_migrated_for_doctor") as empty:
        for url, says in (
            ("postgresql+psycopg://x:y@127.0.0.1:1/z", "did not answer"),
            (empty, "spinal database upgrade"),
        ):
            done = spinal("doctor", SPINAL_DATABASE_URL=url)
            assert done.returncode == 3
            assert says in done.stderr
            assert "next: " in done.stderr
            assert "Traceback" not in done.stderr
