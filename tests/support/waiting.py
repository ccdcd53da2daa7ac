"""Waiting for conditions, never for fixed times."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, *, timeout: float = 30.0, every: float = 0.05) -> T:
    """The first truthy value of ``condition()``; fails after ``timeout`` seconds saying what did not come."""
    found = within(condition, timeout, every)
    if not found:
        raise AssertionError(f"after {timeout:.0f} s still waiting for: {what}")
    return found


def within(condition: Callable[[], T | None], timeout: float, every: float = 0.05) -> T | None:
    """The first truthy value of ``condition()``, or its last one after ``timeout`` seconds; asked for ``every`` so many
    seconds."""
    deadline = time.monotonic() + timeout
    while not (found := condition()) and time.monotonic() <= deadline:
        time.sleep(every)
    return found
