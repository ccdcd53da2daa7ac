"""The whole service on one machine: Postgres, Valkey, migration, API, dispatcher and one Celery worker."""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from devstack.commands import children_for, commands
from devstack.environment import (
    OF_OTHER_SERVERS,
    checked_settings,
    handed_on,
    settings_in,
    warnings_about,
    without_settings,
)
from devstack.postgres import PostgresServer
from devstack.processes import (
    HOST,
    Child,
    StackError,
    as_unprivileged,
    free_port,
    new_password,
    port_answers,
    wait_until,
)
from devstack.valkey import ValkeyServer

READY_TIMEOUT = 60.0
QUICK_DEATH_S = 20.0
QUICK_DEATHS = 4
"""A part that dies so often in a row within QUICK_DEATH_S of its start ends the whole stack."""
WORKER_GRACE_S = 20.0


@dataclass
class _Part:
    """One process of ours: how to start it, and how often it died right after."""

    name: str
    command: tuple[str, ...]
    child: Child
    started: float = field(default_factory=time.monotonic)
    quick_deaths: int = 0


class Stack:
    """Everything a caller needs on loopback ports. ``url`` is the API's address, ``api_key`` opens it.

    ``durable`` keeps databases on disk (fsync on) below ``folder`` for the next start; otherwise speed matters
    and nothing survives. The process that holds a Stack is the supervisor: when it dies, every part dies.
    """

    def __init__(
        self,
        folder: Path,
        *,
        durable: bool,
        model_roots: tuple[Path, ...],
        port: int | None = None,
        concurrency: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.api_key = ""
        self._durable = durable
        self._roots = model_roots
        self._port = port
        self._concurrency = concurrency
        self._extra = dict(settings or {})
        self._given = settings_in(os.environ)
        self._parts: dict[str, _Part] = {}
        self._lock: IO[str] | None = None
        self._postgres: PostgresServer | None = None
        self._valkey: ValkeyServer | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}"

    # start and stop

    def start(self, tell: Callable[[str], None] = lambda _text: None) -> None:
        """Start all parts and wait until the API is ready; raises StackError with the reason and a log's tail."""
        wanted = self._given | self._extra
        settings = checked_settings(wanted)
        children = self._concurrency or children_for(settings, without_settings(os.environ) | wanted)
        port = self._prepare_folder()
        parts = commands(settings, port=port, children=children)
        with contextlib.ExitStack() as undo:
            # Whatever the start meets, a break typed in its midst included: no part outlives it.
            undo.callback(self.stop)
            tell("starting Postgres and Valkey")
            # From this thread: a parent-death signal is sent when the thread that started the child ends.
            self._start_postgres()
            self._start_valkey()
            for warning in warnings_about(self._given, self._decided()):
                tell(f"warning: {warning}")
            # Python processes are slow to import and wait for nothing: they start while the database migrates.
            tell("starting API, dispatcher and worker; migrating")
            for name in ("worker", "api"):
                self._add(name, parts[name])
            self._once("migrate", "-m", "spinal.cli.main", "database", "upgrade")
            self._add("dispatcher", parts["dispatcher"])
            self.api_key = self._key()
            wait_until(self._ready, self._parts["api"].child, timeout=READY_TIMEOUT)
            undo.pop_all()

    def stop(self) -> None:
        """Stop in the order that lets runs be handed back: worker first, databases last."""
        for name in ("worker", "dispatcher", "api"):
            part = self._parts.pop(name, None)
            if part is not None:
                part.child.stop(timeout=WORKER_GRACE_S)
        for server in (self._valkey, self._postgres):
            if server is not None:
                server.stop()
        self._valkey = self._postgres = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self, stopped: Callable[[], bool], tell: Callable[[str], None]) -> None:
        """Restart parts that die, until ``stopped()``; raises StackError when one cannot be kept up."""
        while not stopped():
            self.keep_up(tell)
            time.sleep(0.5)

    def keep_up(self, tell: Callable[[str], None]) -> None:
        """Restart the parts that have died; raises StackError when one cannot be kept up."""
        for part in self._parts.values():
            if not part.child.alive():
                self._revive(part, tell)

    def _revive(self, part: _Part, tell: Callable[[str], None]) -> None:
        status = part.child.process.returncode
        quick = time.monotonic() - part.started < QUICK_DEATH_S
        part.quick_deaths = part.quick_deaths + 1 if quick else 0
        if part.quick_deaths >= QUICK_DEATHS:
            raise StackError(f"{part.name} keeps dying (status {status}):\n{part.child.tail()}")
        tell(f"{part.name} ended with status {status}; starting it again")
        part.child.kill()
        part.child = self._spawn(part.name, part.command)
        part.started = time.monotonic()

    def child(self, name: str) -> Child:
        """The running process of ``api``, ``dispatcher`` or ``worker``."""
        return self._parts[name].child

    # pieces

    def _prepare_folder(self) -> int:
        """Make the folder ready, for this stack alone; returns the port that the API will have."""
        for folder in (self.folder, self.logs, self.folder / "artifacts", self.folder / "servers"):
            folder.mkdir(parents=True, exist_ok=True)
        as_unprivileged(self.folder / "servers")
        if self._port is None:
            self._port = free_port()
        elif port_answers(self._port):
            raise StackError(f"port {self._port} is taken; choose another with --port")
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise StackError(f"another stack already runs in {self.folder}; stop it, or use --state") from None
        return self._port

    def _start_postgres(self) -> None:
        servers = self.folder / "servers"
        self._postgres = PostgresServer(servers, log=self.logs / "postgres.log", durable=self._durable)
        self._postgres.start()

    def _start_valkey(self) -> None:
        servers = self.folder / "servers"
        self._valkey = ValkeyServer(servers, log=self.logs / "valkey.log", durable=self._durable)
        self._valkey.start()

    def _decided(self) -> dict[str, str]:
        """The settings that follow from where this stack keeps its things."""
        if self._postgres is None or self._valkey is None:
            raise StackError("the servers are not running")
        return {
            "SPINAL_DATABASE_URL": self._postgres.url,
            "SPINAL_BROKER_URL": self._valkey.url,
            "SPINAL_ARTIFACT_URL": f"file://{self.folder / 'artifacts'}",
            "SPINAL_SCRATCH_DIR": str(self.folder / "scratch"),
            "SPINAL_MODEL_ROOTS": ":".join(str(root) for root in self._roots),
            "SPINAL_KEY_PEPPER": self._secrets()["pepper"],
            **OF_OTHER_SERVERS,
            **self._extra,
        }

    def _settings(self) -> dict[str, str]:
        # Links in reports lead here, unless the caller says that it is reached elsewhere.
        reached = {} if "SPINAL_ROOT_PATH" in self._given else {"SPINAL_PUBLIC_URL": self.url}
        return handed_on(reached | dict(self._given), self._decided(), self.folder)

    def _environment(self) -> dict[str, str]:
        return without_settings(os.environ) | self._settings() | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            # One thread per worker child: the children share the cores.
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def _add(self, name: str, command: tuple[str, ...]) -> None:
        self._parts[name] = _Part(name, command, self._spawn(name, command))

    def _spawn(self, name: str, command: tuple[str, ...]) -> Child:
        return Child(name, command, log=self.logs / f"{name}.log", env=self._environment(), cwd=self.folder)

    def _once(self, name: str, *arguments: str) -> str:
        """Run a short command of the service to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments], env=self._environment(), cwd=self.folder, capture_output=True, text=True,
            check=False, timeout=READY_TIMEOUT,
        )  # fmt: skip
        if done.returncode != 0:
            raise StackError(f"{name} failed:\n{done.stderr[-2000:]}")
        return done.stdout.strip()

    def _secrets(self) -> dict[str, str]:
        """Secrets of this state folder: they must outlive a restart, or stored keys would stop opening it."""
        path = self.folder / "secrets.json"
        if not path.is_file():
            path.touch(mode=0o600)
            path.write_text(json.dumps({"pepper": new_password()}))
        found: dict[str, str] = json.loads(path.read_text())
        return found

    def _key(self) -> str:
        known = self._secrets()
        if "api_key" not in known:
            known["api_key"] = self._once("key", "-m", "spinal.cli.main", "keys", "create", "--tenant", "local")
            (self.folder / "secrets.json").write_text(json.dumps(known))
        return known["api_key"]

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=2.0).status_code == 200
        return False


@contextlib.contextmanager
def throwaway_folder() -> Iterator[Path]:
    """A folder for one stack, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="spinal-stack-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)
