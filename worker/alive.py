"""``python -m worker.alive [worker|dispatcher]``: whether the worker or dispatcher of this container, or all of this
host, are alive. Exit 0 or 1, with one line that says why; for health checks and exec probes.

Alive is what a restart would not make better: a process that waits for the database or the broker is.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.settings import settings_at_start
from worker.turns import began, standing_still, waiting_for

ROLES = ("worker", "dispatcher")


def look(folder: Path, roles: Sequence[str], now: float) -> tuple[bool, str]:
    """Whether at least one process of these roles keeps a file in ``folder`` and every one of them turns; and why."""
    found = [state for state in map(_read, sorted(folder.glob("*.json"))) if state is not None]
    running = [state for state in found if state["role"] in roles and _runs(state)]
    if not running:
        return False, f"no {' or '.join(roles)} keeps a file in {folder}: it has not begun yet, or has ended"
    for state in running:
        for why in standing_still(state, now):
            return False, f"{state['role']} (process {state['pid']}): {why}"
    names = ", ".join(f"{state['role']} (process {state['pid']})" for state in running)
    waits = sorted({what for state in running for what in waiting_for(state)})
    return True, names + (f", waiting for {' and '.join(waits)}" if waits else "")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        # It went while it was looked at.
        return None
    return state


def _runs(state: dict[str, Any]) -> bool:
    """Whether the process that wrote it is still there; one that was killed leaves its file."""
    if state["began"] is not None:
        return began(state["pid"]) == state["began"]
    try:
        os.kill(state["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def main(arguments: Sequence[str]) -> int:
    roles = tuple(arguments) or ROLES
    if not set(roles) <= set(ROLES):
        print(f"not alive: {roles[0]!r} is neither {' nor '.join(ROLES)}")  # noqa: T201  what a probe shows
        return 1
    folder = settings_at_start().alive_dir
    if folder is None:
        print("not alive: SPINAL_ALIVE_DIR is not set, here and where the process was started")  # noqa: T201  what a probe shows
        return 1
    alive, why = look(folder, roles, time.monotonic())
    print(f"{'alive' if alive else 'not alive'}: {why}")  # noqa: T201  what a probe shows
    return 0 if alive else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
