"""Fixtures shared by all tests: throw-away servers, fresh migrated databases, checkpoints with a known history."""

import os
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.register_assert_rewrite("tests.chaos.fleet")

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEMPLATE = "spinal_template"

# One thread per process unless a test says otherwise: results are the same everywhere and two cores suffice.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The caller's SPINAL_* variables never reach a test, and cached settings never leak between two."""
    from service.settings import get_settings

    for name in [name for name in os.environ if name.startswith("SPINAL_")]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def postgres():  # type: ignore[no-untyped-def]  # the type lives in service.embedded, imported only when used
    """A throw-away Postgres for the whole session. Tests that break the server start their own. TESTS_POSTGRES names
    one that runs already and is used again and again (``docs/mutants.md``)."""
    from service.embedded import throwaway_postgres

    if url := os.environ.get("TESTS_POSTGRES"):
        yield SimpleNamespace(url=url)
        return
    with throwaway_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def valkey():  # type: ignore[no-untyped-def]
    """A throw-away Valkey for the whole session. Tests that break the server start their own."""
    from service.embedded import throwaway_valkey

    with throwaway_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres) -> str:  # type: ignore[no-untyped-def]
    """Name of a database at the migration head, to be copied by every test that wants a ledger."""
    from service.migrate import upgrade
    from service.settings import Settings

    if not database_exists(postgres.url, TEMPLATE):
        url = create_database(postgres.url, TEMPLATE)
        upgrade(Settings(database_url=url))
    return TEMPLATE


def database_exists(server_url: str, name: str) -> bool:
    from sqlalchemy import create_engine, text

    engine = create_engine(server_url)
    try:
        with engine.connect() as connection:
            found = connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :name"), {"name": name})
            return found.scalar() is not None
    finally:
        engine.dispose()


def create_database(server_url: str, name: str, template: str | None = None) -> str:
    """Create a database on the server behind ``server_url`` and return its URL."""
    from sqlalchemy import create_engine, make_url, text

    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            clause = f' TEMPLATE "{template}"' if template else ""
            connection.execute(text(f'CREATE DATABASE "{name}"{clause}'))
    finally:
        admin.dispose()
    return make_url(server_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def database_url(postgres, migrated_template: str) -> str:  # type: ignore[no-untyped-def]
    """URL of a fresh, migrated, empty database."""
    return create_database(postgres.url, f"t_{uuid.uuid4().hex}", migrated_template)


@pytest.fixture
def settings(database_url: str, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Settings on a fresh database, the bundled checkpoints as model root, artifacts in a temporary folder."""
    from service.settings import Settings

    return Settings(
        database_url=database_url,
        artifact_url=f"file://{tmp_path / 'artifacts'}",
        model_roots=(EXAMPLES / "checkpoints",),
        auth="disabled",
        log_level="warning",
    )


@pytest.fixture
def ledger(settings) -> Iterator[object]:  # type: ignore[no-untyped-def]
    """A Ledger on a fresh, migrated, empty database. Its invariants hold after every test that used it."""
    from service.ledger.invariants import violations
    from service.ledger.unit_of_work import Ledger

    opened = Ledger(settings)
    yield opened
    with opened.read() as session:
        assert violations(session) == {}
    opened.close()


def _history_module() -> ModuleType:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import history_checkpoints
    finally:
        sys.path.remove(str(EXAMPLES))
    return history_checkpoints


@pytest.fixture(scope="session")
def history_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the checkpoints of ``examples/history`` are rebuilt on demand."""
    return tmp_path_factory.mktemp("history")


@pytest.fixture(scope="session")
def history_checkpoint(history_root: Path) -> Callable[[str], Path]:
    """``history_checkpoint("dpo-blocks-18-24")`` -> folder of that checkpoint (``examples/history/README.md``)."""
    module = _history_module()

    def rebuild(name: str) -> Path:
        folder = history_root / name
        return folder if folder.is_dir() else module.rebuild(name, history_root)

    return rebuild
