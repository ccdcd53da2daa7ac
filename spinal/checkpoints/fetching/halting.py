"""When work in threads has to end: somebody cancelled, another thread failed, or time is up."""

import threading
import time

from spinal.errors import Cancelled, DeadlineExceeded
from spinal.progress import CancelCheck, never_cancelled


class Halt:
    """Shared by the threads of one gathering. ``deadline`` is a time of ``time.monotonic()``; ``cancelled`` is asked by
    the thread alone that made this."""

    def __init__(self, deadline: float | None = None, cancelled: CancelCheck = never_cancelled) -> None:
        self._stop = threading.Event()
        self._cancelled, self._owner = cancelled, threading.get_ident()
        self._deadline = deadline

    def stop(self) -> None:
        """Have every thread end at its next check."""
        self._stop.set()

    def left(self) -> float | None:
        """Seconds until the deadline, 0 once it has passed; None where there is none."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raises Cancelled once stopped, DeadlineExceeded once time is up."""
        if self._stop.is_set() or (threading.get_ident() == self._owner and self._cancelled()):
            raise Cancelled("cancelled in phase fetch")
        if self.left() == 0.0:
            raise DeadlineExceeded("time was up before the model was fetched")

    def wait(self, seconds: float) -> None:
        """Wait so long, or until there is a reason not to; raises as :meth:`check`."""
        left = self.left()
        self._stop.wait(seconds if left is None else min(seconds, left))
        self.check()
