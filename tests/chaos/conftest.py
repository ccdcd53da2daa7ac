"""The ``fleet`` fixture."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from devstack.processes import as_unprivileged
from devstack.valkey import ValkeyServer
from service.database.unit_of_work import Ledger
from service.settings import Settings
from tests.support.fleet import SHORT_TIMINGS, Fleet, fleet_environment


@pytest.fixture
def fleet(settings: Settings, ledger: Ledger, tmp_path: Path) -> Iterator[Fleet]:
    """Nothing runs yet but the broker; the test starts what it needs. Everything is killed afterwards."""
    (tmp_path / "double").mkdir()
    with ExitStack() as stack:
        # Not below pytest's folder, which is private to this user: as root the broker runs as another one.
        servers = stack.enter_context(TemporaryDirectory(prefix="spinal-chaos-", ignore_cleanup_errors=True))
        valkey = ValkeyServer(as_unprivileged(Path(servers)), log=tmp_path / "valkey.log", durable=False)
        valkey.start()
        stack.callback(valkey.stop)
        environment = fleet_environment(settings, valkey, tmp_path) | SHORT_TIMINGS
        made = Fleet(settings, ledger, valkey, tmp_path, environment)
        stack.callback(made.close)
        yield made
