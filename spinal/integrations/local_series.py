"""A series that this machine measures, in processes of their own: no random number, thread or byte of memory of the
training process is used for it."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spinal.integrations.measuring import ERROR, LOG, SERIES, STANDING, write_json
from spinal.integrations.port import MemberStanding, Standing
from spinal.integrations.spool import Queued, Spool

GRACE_S = 5.0
ENDED_BY_OTHERS = frozenset({-signal.SIGINT, -signal.SIGTERM})
"""Codes of a process that was told to end, by Ctrl-C in the terminal of the training or by a batch system: no fault of
the member that it was at, which is measured by the next."""
MOST_OUTPUT = 2000


class LocalSeries:
    """Measures one member after the other. A process takes all that wait when it starts, in turn: what it imports is
    then imported once for all of them."""

    longest_pause_s = 1.0

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._given: dict[int, None] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._stopped = False

    def open(self) -> None:
        """Nothing: the series is what lies in the spool."""

    def add(self, members: Sequence[Queued]) -> None:
        self._given |= dict.fromkeys(member.step for member in members)
        self._go_on()

    def standing(self) -> Standing:
        self._go_on()
        found = _read_or(self._spool.state / STANDING, {"status": "insufficient_series", "reasons": [], "members": {}})
        members = {step: MemberStanding("waiting") for step in self._given}
        members |= {int(step): MemberStanding(**member) for step, member in found["members"].items()}
        for path in self._spool.measured.glob(f"*{ERROR}"):
            members[int(path.name.removesuffix(ERROR))] = MemberStanding("failed", reason=_read_or(path, {})["detail"])
        return Standing(found["status"], tuple(found["reasons"]), members)

    def close(self) -> None:
        """Nothing yet: members may still be measured, which are judged as those of a closed series."""

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            if self._child is not None:
                _end(self._child)
        if self._spool.run().closed and (document := _read_or(self._spool.state / SERIES, {})):
            # It may have been judged before it was closed, of which nothing else depends.
            write_json(self._spool.state / SERIES, document | {"closed": True})

    def _go_on(self) -> None:
        """Start the next process, where none is at work and something waits."""
        with self._turn:
            if self._stopped:
                # Whatever was under way was ended by :meth:`stop`.
                return
            if self._child is not None:
                code = self._child.poll()
                if code is None:
                    return
                self._child = None
                if code != 0 and code not in ENDED_BY_OTHERS and (left := self._left()):
                    # The one that it was at: those behind it are measured by the next.
                    self._record_crash(left[0], code)
            if left := self._left():
                self._child = self._start(left)

    def _left(self) -> list[int]:
        measured = self._spool.measured
        return [
            step
            for step in self._given
            if not (measured / f"{step}.json").is_file() and not (measured / f"{step}{ERROR}").is_file()
        ]

    def _start(self, steps: Sequence[int]) -> "subprocess.Popen[bytes]":
        folder = self._spool.folder.absolute()
        command = [sys.executable, "-m", "spinal.integrations.measuring", str(folder), *map(str, steps)]
        # Where this process stands by now, or one that sends what was left, the paths that were given lead nowhere.
        place = self._spool.run().place
        there = place if place and Path(place).is_dir() else None
        with (self._spool.state / LOG).open("wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=there)

    def _record_crash(self, step: int, code: int) -> None:
        said = (self._spool.state / LOG).read_bytes()[-MOST_OUTPUT:].decode("utf-8", "replace").strip()
        last = said.splitlines()[-1] if said else "it said nothing"
        detail = f"the measuring process ended with {code}: {last}"
        write_json(self._spool.measured / f"{step}{ERROR}", {"code": "internal_error", "detail": detail})


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _read_or(path: Path, otherwise: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        return otherwise
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
