"""Fixtures shared by all tests: throw-away servers, fresh migrated databases, checkpoints with a known history."""

import contextlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import hypothesis
import pytest

from tests.support.former import NoHistory, unpack
from tests.support.places import EXAMPLES as EXAMPLES
from tests.support.places import ROOT as ROOT

if TYPE_CHECKING:
    # Imported by those tests alone that use them.
    from devstack import ValkeyServer
    from service.database.unit_of_work import Ledger
    from service.settings import Settings

pytest.register_assert_rewrite("tests.support.fleet")

HERE = Path(__file__).resolve().parent
TEMPLATE = "spinal_template"

LAYERS: dict[str, tuple[str, frozenset[str]]] = {
    "unit": ("one function or class, in this process", frozenset()),
    "property": ("what holds for all inputs that Hypothesis finds", frozenset()),
    "contract": ("what the code promises: imports, documents, openapi.yaml", frozenset()),
    "cli": ("the `spinal` command as a process", frozenset()),
    "ledger": ("SQL against a real Postgres", frozenset()),
    "seams": ("a fake source, locator, rule, format and kind, each added in one place", frozenset()),
    "api": ("HTTP against a real Postgres, with an engine double", frozenset()),
    "worker": ("parts of the workers against a real Postgres", frozenset()),
    "devstack": ("the embedded servers, wherever they lie and whoever starts them", frozenset({"server"})),
    "engine": ("measurements of tiny models against oracles", frozenset({"model"})),
    "browser": ("reports in headless Chromium", frozenset({"browser"})),
    "integrations": (
        "trainers that feed a series while they train, and servers of others that hold models",
        frozenset(),
    ),
    "science": ("audits of checkpoints with a known history", frozenset({"model"})),
    "chaos": ("real processes, broken one way at a time", frozenset({"server"})),
    "e2e": ("the whole stack from one command", frozenset({"server", "model"})),
}
"""Folder -> what its tests are about, and what all of them need whatever fixtures they use."""
NEEDS = {
    "server": "starts Postgres or Valkey",
    "model": "loads a model with torch, in this process or another",
    "browser": "starts Chromium",
    "slow": "a simulation of many seconds",
}
FAST = f"not ({' or '.join(NEEDS)})"
LANES, MOST_LANES = 3, 8
"""Tests wait much of the time: three lanes at least, on two cores, too, and on a large machine no more than this."""
SHARED = {"chaos": "test", "e2e": "test", "science": "folder"}
"""Layer -> what keeps to one lane. The tests of science share measured audits; those of chaos share nothing."""
SERVER_FIXTURES = frozenset({"postgres", "valkey"})
UNUSED_SERVER = {"postgres", "spinal", "template0", "template1"}
"""Databases of a server that nobody has used yet."""

# One thread per process unless a test says otherwise: results are the same everywhere and two cores suffice.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
# How long an example takes is no property of the code.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
# A shell has its background jobs ignore Ctrl-C, and whatever they start: tests interrupt commands all the same.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="without servers, models and long simulations")
    parser.addoption("--all", action="store_true", help="fail, not skip, where something that tests need is missing")


def pytest_configure(config: pytest.Config) -> None:
    for name, (says, _) in LAYERS.items():
        config.addinivalue_line("markers", f"{name}: {says}")
    for name, says in NEEDS.items():
        config.addinivalue_line("markers", f"{name}: {says}")
    if config.getoption("fast"):
        asked = config.option.markexpr
        config.option.markexpr = f"({asked}) and {FAST}" if asked else FAST


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Importing the tests of a layer that loads models imports torch: with ``--fast`` nobody does."""
    _, needs = LAYERS.get(collection_path.name, ("", frozenset()))
    return True if config.getoption("fast") and needs and collection_path.parent == HERE else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its layer (its folder) and with what it needs."""
    for item in items:
        layer = item.path.relative_to(HERE).parts[0]
        if layer not in LAYERS:
            raise pytest.UsageError(
                f"tests/{layer} is no layer yet: say what it is about in LAYERS of tests/conftest.py"
            )
        _, needs = LAYERS[layer]
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            needs = needs | {"server"}
        for name in (layer, *sorted(needs)):
            item.add_marker(name)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: whole folders run in lanes, single files in this process."""
    whole = all(Path(argument).is_dir() for argument in config.args)
    return min(max(os.cpu_count() or 1, LANES), MOST_LANES) if whole else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A lane takes a whole file at a time, whose fixtures then are made once; or one test, or one folder."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _, _ = nodeid.partition("::")
            layer = Path(file).parts[1]
            return {"test": nodeid, "file": file, "folder": layer}[SHARED.get(layer, "file")]

    return Lanes(config, log)


@pytest.fixture(autouse=True)
def _fast_tests_import_no_torch(pytestconfig: pytest.Config) -> Iterator[None]:
    clean = "torch" not in sys.modules
    yield
    if clean and pytestconfig.getoption("fast"):
        assert "torch" not in sys.modules, "a test without the marker `model` imported torch"


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One loud line for each reason for which tests were skipped, whoever skipped them."""
    reasons = Counter(str(report.longrepr[-1]) for report in terminalreporter.stats.get("skipped", []))
    for reason, tests in sorted(reasons.items()):
        terminalreporter.write_line(
            f"NOT TESTED, {tests} tests: {reason.removeprefix('Skipped: ')}", yellow=True, bold=True
        )


Without = Callable[[str, str], NoReturn]


@pytest.fixture(scope="session")
def without(pytestconfig: pytest.Config) -> Without:
    """For a test that cannot run here, with what is missing and how to have it: skips loudly, and fails where all tests
    were asked for. There is no other way to skip (``tests/contract/test_exceptions_to_rules.py``)."""

    def gone(what: str, next_step: str) -> NoReturn:
        says = f"{what} is missing: {next_step}"
        if pytestconfig.getoption("all"):
            pytest.fail(says)
        pytest.skip(says)

    return gone


@pytest.fixture(scope="session")
def former_code(tmp_path_factory: pytest.TempPathFactory, without: Without) -> Path:
    """Folder with the code of the former release (``tests/support/former.py``)."""
    try:
        return unpack(tmp_path_factory.mktemp("former"))
    except NoHistory as error:
        without("the former release in the history of this checkout", str(error))


@pytest.fixture(autouse=True)
def _log_level_as_at_the_start() -> None:
    """An application that a test made in this process has set its own: later tests would capture nothing."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The caller's SPINAL_* variables and cache never reach a test, and cached settings never leak between two."""
    from service.settings import get_settings

    for name in [name for name in os.environ if name.startswith("SPINAL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


class HasUrl(Protocol):
    """A server, or what stands for one that somebody else started."""

    @property
    def url(self) -> str: ...


@pytest.fixture(scope="session")
def postgres() -> Iterator[HasUrl]:
    """A throw-away Postgres for the whole session. Tests that break the server start their own. TESTS_POSTGRES names
    one that runs already and is used again and again (``docs/mutants.md``)."""
    from devstack import throwaway_postgres

    if url := os.environ.get("TESTS_POSTGRES"):
        yield SimpleNamespace(url=url)
        return
    with throwaway_postgres() as server:
        yield server
        left = set(_administer(server.url, "SELECT datname FROM pg_database"))
        assert left == UNUSED_SERVER, f"tests left databases behind: {sorted(left - UNUSED_SERVER)}"


@pytest.fixture(scope="session")
def valkey() -> Iterator["ValkeyServer"]:
    """A throw-away Valkey for the whole session. Tests that break the server start their own."""
    from devstack import throwaway_valkey

    with throwaway_valkey() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: HasUrl) -> Iterator[str]:
    """Name of a database at the migration head, to be copied by every test that wants a ledger."""
    from service.operations.migrate import upgrade
    from service.settings import Settings

    if "TESTS_POSTGRES" in os.environ and TEMPLATE in _administer(postgres.url, "SELECT datname FROM pg_database"):
        yield TEMPLATE
        return
    with create_database(postgres.url, TEMPLATE) as url:
        upgrade(Settings(database_url=url))
        yield TEMPLATE


@contextlib.contextmanager
def create_database(server_url: str, name: str, template: str | None = None) -> Iterator[str]:
    """URL of a new database on the server behind ``server_url``; dropped afterwards, whoever is still connected."""
    from sqlalchemy import make_url

    _administer(server_url, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _administer(server_url, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(server_url: str, statement: str) -> list[Any]:
    """Carry out one statement outside any transaction; returns the first column of its rows."""
    import psycopg

    with psycopg.connect(server_url.replace("+psycopg", ""), autocommit=True) as connection:
        done = connection.execute(statement.encode())
        return [first for first, *_ in done.fetchall()] if done.description else []


@pytest.fixture
def database_url(postgres: HasUrl, migrated_template: str) -> Iterator[str]:
    """URL of a fresh, migrated, empty database."""
    with create_database(postgres.url, f"t_{uuid.uuid4().hex}", migrated_template) as url:
        yield url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> "Settings":
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
def ledger(settings: "Settings") -> Iterator["Ledger"]:
    """A Ledger on a fresh, migrated, empty database. Its invariants hold after every test that used it."""
    from service.database.unit_of_work import Ledger
    from service.operations.invariants import violations

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
