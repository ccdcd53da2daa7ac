"""A series that this machine measures, in processes of their own: no random number, thread or byte of memory of the
training process is used for it."""

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

from spinal.errors import Cancelled
from spinal.integrations.measuring import ERROR, LOG, STANDING, write_json
from spinal.integrations.port import MemberStanding, Standing
from spinal.integrations.spool import Queued, Spool

LOOK_S = 0.2
"""So often somebody looks whether measuring was given up."""
GRACE_S = 5.0
MOST_OUTPUT = 2000


class LocalSeries:
    """Measures one member after the other."""

    at_once = 1

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._stopped = threading.Event()

    def open(self) -> None:
        """Nothing: the series is what lies in the spool."""

    def add(self, members: Sequence[Queued]) -> None:
        for member in members:
            if not self._done(member.step):
                code = self._run(str(member.step))
                if not self._done(member.step):
                    self._record_crash(member.step, code)

    def standing(self) -> Standing:
        found = _read_or(self._spool.state / STANDING, {"status": "insufficient_series", "reasons": [], "members": {}})
        members = {int(step): MemberStanding(**member) for step, member in found["members"].items()}
        for path in self._spool.measured.glob(f"*{ERROR}"):
            members[int(path.name.removesuffix(ERROR))] = MemberStanding("failed", reason=_read_or(path, {})["detail"])
        return Standing(found["status"], tuple(found["reasons"]), members)

    def close(self) -> None:
        self._run()

    def stop(self) -> None:
        self._stopped.set()

    def _done(self, step: int) -> bool:
        return any((self._spool.measured / f"{step}{ending}").is_file() for ending in (".json", ERROR))

    def _run(self, *steps: str) -> int:
        """The exit code of the process that measures these steps and judges the series; raises Cancelled."""
        command = [sys.executable, "-m", "spinal.integrations.measuring", str(self._spool.folder), *steps]
        with (self._spool.state / LOG).open("wb") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
            try:
                while True:
                    try:
                        return child.wait(LOOK_S)
                    except subprocess.TimeoutExpired:
                        if self._stopped.is_set():
                            raise Cancelled("measuring was given up") from None
            finally:
                _end(child)

    def _record_crash(self, step: int, code: int) -> None:
        said = (self._spool.state / LOG).read_bytes()[-MOST_OUTPUT:].decode("utf-8", "replace").strip()
        last = said.splitlines()[-1] if said else "it said nothing"
        write_json(
            self._spool.measured / f"{step}{ERROR}",
            {"code": "internal_error", "detail": f"the measuring process ended with {code}: {last}"},
        )


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _read_or(path: Any, otherwise: dict[str, Any]) -> dict[str, Any]:
    if not path.is_file():
        return otherwise
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
