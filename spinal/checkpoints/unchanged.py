"""What was found sound once and has not changed since needs no second reading.

A service checks the same checkpoints with every submission, and a tokenizer of ten megabytes takes a second to read.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

SETTLED_NS = 2_000_000_000
"""A file changed so recently may change again without a new time stamp."""

State = tuple[tuple[str, int, int, int, int, int], ...]
"""Of each file: name, device, inode, size, time of change of the content and of anything."""


def state_of(paths: Iterable[Path]) -> State:
    """What is known of files and folders without reading them; a missing one has no entry."""
    found = []
    for path in paths:
        with suppress(OSError):
            of = path.stat()
            found.append((path.name, of.st_dev, of.st_ino, of.st_size, of.st_mtime_ns, of.st_ctime_ns))
    return tuple(found)


Found = TypeVar("Found")


class Remembered(Generic[Found]):
    """Remembers what was found in files, the latest ``most``, while the files stay as they are; safe to share between
    threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Hashable, Found] = OrderedDict()
        self._lock = threading.Lock()

    def value(self, known: Hashable, paths: Callable[[], Iterable[Path]], examine: Callable[[], Found]) -> Found:
        """What ``examine`` finds, or found before with all ``paths`` as they are now. ``known`` is whatever else it
        depends on. What changes meanwhile or changed a moment ago is not remembered, nor is what raises."""
        settled = time.time_ns() - SETTLED_NS
        state = state_of(paths())
        key = (known, state)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        found = examine()
        if state and max(changed for *_, changed in state) <= settled and state_of(paths()) == state:
            self._remember(key, found)
        return found

    def _remember(self, key: Hashable, found: Found) -> None:
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


class Unchanged:
    """Remembers the latest ``most`` checks that were passed."""

    def __init__(self, most: int) -> None:
        self._passed: Remembered[None] = Remembered(most)

    def check(self, known: Hashable, paths: Callable[[], Iterable[Path]], examine: Callable[[], None]) -> None:
        """Call ``examine``, which raises when something is wrong, unless it passed before with all ``paths`` as they
        are now."""
        self._passed.value(known, paths, examine)
