"""Waiting for conditions, never for fixed times."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T | None], what: str, *, timeout: float = 30.0) -> T:
    """The first truthy value of ``condition()``; fails after ``timeout`` seconds saying what did not come."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:.0f} s still waiting for: {what}")
        time.sleep(0.05)
