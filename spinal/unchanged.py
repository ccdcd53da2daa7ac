"""What was found sound once and has not changed since needs no second reading.

A service checks the same checkpoints with every submission; reading a tokenizer of ten megabytes each time holds the
interpreter for everybody else.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

SETTLED_NS = 2_000_000_000
"""A file changed so recently may change again without a new time stamp."""

State = tuple[tuple[str, int, int, int, int], ...]
"""Path, inode, size, time of change of content and of anything, for each file."""


def state_of(*paths: Path) -> State:
    """What is known of files without reading them; a missing one has no entry. For a folder give its files."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


class Unchanged:
    """Remembers up to ``most`` states that passed a check; safe to share between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._passed: OrderedDict[Hashable, None] = OrderedDict()
        self._lock = threading.Lock()

    def passed(self, state: State) -> bool:
        """Whether the check was passed in exactly this state."""
        with self._lock:
            if state not in self._passed:
                return False
            self._passed.move_to_end(state)
            return True

    def remember(self, state: State) -> None:
        """``state``, taken before the check, passed it. Files changed a moment ago are not remembered."""
        if any(changed > time.time_ns() - SETTLED_NS for *_, changed in state):
            return
        with self._lock:
            self._passed[state] = None
            while len(self._passed) > self._most:
                self._passed.popitem(last=False)
