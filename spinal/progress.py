"""What long work tells whoever waits for it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One report: ``phase`` names the step, ``done`` of ``total`` units of it, ``fraction`` of the whole run."""

    phase: str
    done: int
    total: int
    fraction: float


ProgressSink = Callable[[Progress], None]
CancelCheck = Callable[[], bool]


def ignore_progress(_: Progress) -> None:
    """A sink for callers that do not watch."""


def never_cancelled() -> bool:
    """A check for callers that do not cancel."""
    return False
