"""Child processes that never outlive their parent, with log files and bounded waits."""

import contextlib
import ctypes
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

PR_SET_PDEATHSIG = 1
UNPRIVILEGED = "nobody"
HOST = "127.0.0.1"


class StackError(Exception):
    """A part of the embedded stack could not be started; the text says which, why and what to do."""


class Child:
    """One child process in its own session. It receives ``death_signal`` when this process dies (Linux)."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        unprivileged: bool = False,
        death_signal: int = signal.SIGTERM,
        cwd: Path | None = None,
        inherit: tuple[int, ...] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._out: IO[bytes] = log.open("ab")
        self.process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            cwd=cwd if cwd is not None else ("/" if unprivileged else None),
            pass_fds=inherit,
            preexec_fn=_die_with_parent(death_signal, os.getpid()),
            **(demotion() if unprivileged else {}),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def alive(self) -> bool:
        return self.process.poll() is None

    def tail(self, lines: int = 15) -> str:
        """Last lines of the log, for error messages."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def stop(self, *, number: int = signal.SIGTERM, timeout: float = 10.0) -> None:
        """Ask to end, wait, then kill the whole session."""
        if self.alive():
            self.send(signal.SIGCONT)
            self.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """kill -9 for the whole session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(10)
        self._out.close()


def children_of(pid: int) -> list[int]:
    """Processes whose parent is ``pid`` at this moment (Linux; elsewhere none)."""
    folders = [folder for folder in Path("/proc").glob("[0-9]*") if _stat(int(folder.name))[1:2] == [str(pid)]]
    return [int(folder.name) for folder in folders]


def end_all(pids: Sequence[int], *, timeout: float = 10.0) -> None:
    """kill -9 for processes that are no children of this one; returns once none of them runs."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + timeout
    while any(_stat(pid)[:1] not in ([], ["Z"]) for pid in pids):
        if time.monotonic() > deadline:
            raise StackError(f"processes {', '.join(map(str, pids))} do not end")
        time.sleep(0.01)


def _stat(pid: int) -> list[str]:
    """State and parent of a process, and what follows; nothing where there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _die_with_parent(number: int, parent: int) -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)

    return arrange


def wait_until(ready: Callable[[], bool], child: Child, *, timeout: float, interval: float = 0.03) -> None:
    """Wait for ``ready()``; raises StackError with the log's tail when the child dies or time runs out."""
    deadline = time.monotonic() + timeout
    while not ready():
        if not child.alive():
            raise StackError(f"{child.name} ended with status {child.process.returncode}:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise StackError(f"{child.name} was not ready after {timeout:.0f} s:\n{child.tail()}")
        time.sleep(interval)


def free_port() -> int:
    """A TCP port of the loopback interface that was free just now, below those that outgoing connections take: a server
    that is started again finds its own port as it left it."""
    while True:
        port = secrets.choice(range(15_000, 32_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port


def port_answers(port: int) -> bool:
    """Whether something accepts connections on the loopback port."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.5):
        return True
    return False


def reachable(path: Path) -> bool:
    """Whether an unprivileged user can list ``path`` and may pass through every folder above it."""
    return path.stat().st_mode & 0o005 == 0o005 and _passable(path)


def _passable(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)


def as_unprivileged(folder: Path) -> Path:
    """Give ``folder`` to the unprivileged user when running as root."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam(UNPRIVILEGED)
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    return folder


def demotion() -> dict[str, Any]:
    """Arguments with which ``subprocess`` starts a program as the unprivileged user when running as root."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam(UNPRIVILEGED)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@contextlib.contextmanager
def entrance(folder: Path) -> Iterator[tuple[Path, tuple[int, ...]]]:
    """A path by which an unprivileged child reaches ``folder``, and the descriptors that it has to inherit for that.

    ``folder`` must be the child's own. Where a folder above it is private (root below its home, a umask of 077) no
    ordinary path leads there; an open descriptor does, and to nothing else. Raises StackError where a private folder
    cannot be reached so (elsewhere than on Linux).
    """
    if os.geteuid() != 0 or _passable(folder):
        yield folder, ()
        return
    if not Path("/proc/self/fd").is_dir():
        raise StackError(f"{UNPRIVILEGED}, who runs the servers, cannot enter {folder.parent}; choose another folder")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{descriptor}"), (descriptor,)
    finally:
        os.close(descriptor)


def new_password() -> str:
    return secrets.token_urlsafe(24)
