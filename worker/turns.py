"""When the loops of a process last turned, in memory and in a small file that a probe reads (``worker/alive.py``).

The file says nothing that has to be believed: a process that is frozen, or whose writing thread is gone, writes no
more, and then every loop in it grows old.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)
WRITE_EVERY_S = 1.0


@dataclass
class _Loop:
    limit_s: float
    last: float
    waits_for: str | None = None
    suspended: bool = False


class Turns:
    """The loops of one process, each with the seconds in which it has to turn once. Times are of the monotonic clock,
    which all processes of a host share."""

    def __init__(self, role: str, limits: Mapping[str, float]) -> None:
        self.role = role
        now = time.monotonic()
        self._loops = {name: _Loop(limit_s, now) for name, limit_s in limits.items()}
        self._done = threading.Event()

    def turned(self, name: str, *, waits_for: str | None = None) -> None:
        """The loop has turned once; ``waits_for`` names what is away and keeps it from its work."""
        loop = self._loops[name]
        loop.last, loop.waits_for, loop.suspended = time.monotonic(), waits_for, False

    def suspend(self, name: str, waits_for: str) -> None:
        """The loop need not turn before it says so again: something else is away, and ending the process brings that
        not back."""
        loop = self._loops[name]
        loop.last, loop.waits_for, loop.suspended = time.monotonic(), waits_for, True

    def resume(self, name: str) -> None:
        """From now on the loop has to turn again."""
        loop = self._loops[name]
        if loop.suspended:
            loop.last, loop.suspended = time.monotonic(), False

    def state(self) -> dict[str, Any]:
        """What the file holds."""
        now = time.monotonic()
        return {
            "role": self.role,
            "pid": os.getpid(),
            "began": began(os.getpid()),
            "loops": {
                name: {
                    "last": now if loop.suspended else loop.last,
                    "limit_s": loop.limit_s,
                    "waits_for": loop.waits_for,
                }
                for name, loop in self._loops.items()
            },
        }

    def keep(self, folder: Path) -> None:
        """Write the file now and again until :meth:`end`, from a thread of its own. A folder that cannot be written to
        is told once: the probe fails then, and the work goes on."""
        threading.Thread(target=self._keep, args=(file_of(folder, self.role, os.getpid()),), daemon=True).start()

    def _keep(self, file: Path) -> None:
        told = False
        while True:
            try:
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                half = file.with_suffix(".half")
                half.write_text(json.dumps(self.state()), encoding="utf-8")
                half.replace(file)
            except OSError as error:
                if not told:
                    log.error("no probe will find this process alive", folder=str(file.parent), error=str(error))
                told = True
            if self._done.wait(WRITE_EVERY_S):
                file.unlink(missing_ok=True)
                return

    def end(self) -> None:
        """The process ends in good order: its file goes."""
        self._done.set()


def file_of(folder: Path, role: str, pid: int) -> Path:
    return folder / f"{role}-{pid}.json"


def standing_still(state: Mapping[str, Any], now: float) -> list[str]:
    """A sentence for each loop that has not turned in its time."""
    return [
        f"the loop {name!r} has not turned for {now - loop['last']:.0f} s (limit {loop['limit_s']:g} s)"
        for name, loop in state["loops"].items()
        if now - loop["last"] > loop["limit_s"]
    ]


def waiting_for(state: Mapping[str, Any]) -> list[str]:
    """What is away, as the loops say."""
    return sorted({loop["waits_for"] for loop in state["loops"].values() if loop["waits_for"] is not None})


def began(pid: int) -> int | None:
    """When a process began, in ticks since the machine did: tells it from a later one of the same number. None where
    the system does not say, or the process has ended."""
    try:
        members = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if members[0] in "ZX" else int(members[19])
