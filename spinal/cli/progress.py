"""Progress of long work on stderr: a bar on a terminal, elsewhere a line a minute, each with the time that is left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from spinal.cli.output import say
from spinal.cli.signals import fetched
from spinal.progress import Progress as Report
from spinal.progress import ProgressSink
from spinal.text import visible

PHASES = {
    "fetch": "fetching the checkpoint",
    "load": "reading the checkpoint",
    "hash": "hashing the weights",
    "walk": "walking the blocks",
    "store": "keeping what was read",
    "lens": "reading what every layer predicts",
    "greedy": "writing answers",
    "weights": "comparing weights",
    "gap": "comparing what is predicted",
    "swap": "swapping blocks",
    "accounts": "what carries the change",
    "noise": "controls of random noise",
    "statistics": "intervals and verdict",
    "waiting": "queued, waiting for a worker",
    "starting": "a worker has begun, its engine is being loaded",
}
"""Phases in words; one that is not here is called by its name."""
COUNTED = {"walk": "blocks", "swap": "blocks"}
"""Phases whose steps are worth counting, and what they are."""
BYTES = frozenset({"fetch"})
"""Phases whose steps are bytes."""
UNITS = ("bytes", "kB", "MB", "GB", "TB")
FIRST_S = 5.0
"""Seconds of work after which the first line is said."""
EVERY_S = 60.0
SAME_S = 300.0
"""What does not change is said again after so long: some pipelines end a step that says nothing for ten minutes."""
KNOWN_FROM_S, KNOWN_FROM = 5.0, 0.03
"""Seconds of work and the share of it from which on an estimate means something."""
Clock = Callable[[], float]


class Estimate:
    """How long work will still take, from how its fraction has risen so far."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begun: tuple[float, float] | None = None

    def left(self, fraction: float) -> float | None:
        """Seconds; None as long as that would be a guess."""
        now = self._clock()
        if self._begun is None:
            # What was done before anybody watched took no time that is known.
            self._begun = (now, fraction)
        began, at = self._begun
        taken, done = now - began, fraction - at
        if taken < KNOWN_FROM_S or done < KNOWN_FROM:
            return None
        return max(0.0, (1.0 - fraction) / done * taken)


def in_words(report: Report, left_s: float | None) -> str:
    """``walking the blocks 12/24, about 3 min left``."""
    counted = f" {report.done}/{report.total}" if report.phase in COUNTED and report.total > 1 else ""
    if report.phase in BYTES and report.total > 1:
        counted = f" {in_bytes(report.done, report.total)}"
    left = "" if left_s is None else f", {about(left_s)} left"
    return f"{PHASES.get(report.phase, report.phase)}{counted}{left}"


def in_bytes(done: int, total: int) -> str:
    """How many of how many bytes, in the unit of all of them.

    >>> in_bytes(0, 982), in_bytes(1_000_000, 3_964_776), in_bytes(12_000_000, 16_060_522_496)
    ('0 of 982 bytes', '1.0 of 4.0 MB', '0.0 of 16.1 GB')
    """
    power = min((len(str(total)) - 1) // 3, len(UNITS) - 1)
    if power == 0:
        return f"{done} of {total} {UNITS[0]}"
    return f"{done / 1000**power:.1f} of {total / 1000**power:.1f} {UNITS[power]}"


def about(seconds: float) -> str:
    """A time as far as an estimate knows it.

    >>> about(4.0), about(47.0), about(170.0), about(5400.0), about(40000.0)
    ('a few seconds', 'about 50 s', 'about 3 min', 'about 1.5 h', 'about 11 h')
    """
    if seconds < 10.0:
        return "a few seconds"
    if seconds < 90.0:
        return f"about {round(seconds / 10.0) * 10} s"
    if seconds < 3600.0:
        return f"about {round(seconds / 60.0)} min"
    hours = seconds / 3600.0
    return f"about {round(hours, 1):g} h" if hours < 10.0 else f"about {round(hours)} h"


class Watch:
    """Shows pieces of work one after another; off a terminal all of them together say a line a minute at most."""

    def __init__(
        self,
        clock: Clock = time.monotonic,
        *,
        terminal: bool | None = None,
        whole: bool = False,
        keeping: bool = False,
        at_once: bool = False,
    ) -> None:
        """``whole``: the fractions of all pieces are those of one whole, which is what is estimated. ``keeping``: what
        is fetched stays when the command ends. ``at_once``: the first line is said at once, and what does not change is
        said again every ``SAME_S`` only."""
        self._keeping = keeping
        self._at_once = at_once
        self._said, self._said_at = "", 0.0
        self._clock = clock
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._whole = Estimate(clock) if whole else None
        self._next_line: float | None = None

    @contextmanager
    def __call__(self, label: str) -> Iterator[ProgressSink]:
        """A sink for the work called ``label``."""
        estimate = Estimate(self._clock) if self._whole is None else self._whole
        if not self._terminal:
            yield lambda report: self._line(label, report, estimate)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as drawn:
            task = drawn.add_task(visible(label), total=1.0)

            def show(report: Report) -> None:
                self._note(report)
                words = in_words(report, estimate.left(report.fraction))
                drawn.update(task, completed=report.fraction, description=visible(f"{label}: {words}"))

            yield show

    def _note(self, report: Report) -> None:
        if self._keeping and report.phase == "fetch" and report.done:
            fetched.set()

    def _line(self, label: str, report: Report, estimate: Estimate) -> None:
        self._note(report)
        now = self._clock()
        left = estimate.left(report.fraction)
        if self._next_line is None:
            self._next_line = now + (0.0 if self._at_once else FIRST_S)
        line = f"{label}: {in_words(report, left)}"
        if now < self._next_line or (self._at_once and line == self._said and now < self._said_at + SAME_S):
            return
        self._next_line, self._said, self._said_at = now + EVERY_S, line, now
        say(line)


def of_audit(audit: dict[str, Any]) -> Report:
    """Where an audit stands: its place while it is queued, else the phase of the run that is furthest behind, and the
    mean over all runs."""
    progress = audit["progress"]
    if (stands := in_queue(audit)) is not None and audit["state"] == "QUEUED":
        return Report(f"QUEUED: {stands}", 0, 1, progress["fraction"])
    runs: dict[str, dict[str, Any]] = progress.get("runs") or {}
    behind: dict[str, Any] = next((run for run in runs.values() if run.get("phase") == progress["phase"]), {})
    done, total = behind.get("done") or 0, behind.get("total") or 1
    return Report(progress["phase"], done, total, progress["fraction"])


def in_queue(audit: dict[str, Any]) -> str | None:
    """What the service says of an audit's place in the queue; None where it says nothing, or is of an older release."""
    said = (audit.get("queue") or {}).get("summary")
    return said if isinstance(said, str) else None
