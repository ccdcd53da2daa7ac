"""Progress and cancellation inside the engine."""

from spinal.errors import Cancelled
from spinal.progress import CancelCheck, Progress, ProgressSink


class Reporter:
    """Turns steps of phases with known shares into monotone progress, and cancellation into an exception.

    Examples
    --------
    >>> from spinal.progress import never_cancelled
    >>> reporter = Reporter(lambda progress: print(progress.phase, progress.fraction), never_cancelled)
    >>> reporter.step("walk", 1, 2, (0.0, 0.5))
    walk 0.25
    >>> reporter.step("lens", 1, 1, (0.5, 1.0))
    lens 1.0
    """

    def __init__(self, sink: ProgressSink, cancelled: CancelCheck) -> None:
        self._sink = sink
        self.cancelled = cancelled
        self._fraction = 0.0
        self._phase = "load"

    def step(self, phase: str, done: int, total: int, span: tuple[float, float]) -> None:
        """Report ``done`` of ``total`` units of a phase that takes the share ``span`` of the whole, in 0..1.

        Raises Cancelled once cancellation was asked for.
        """
        self._phase = phase
        self.check()
        low, high = span
        self._fraction = max(self._fraction, low + (high - low) * done / max(total, 1))
        self._sink(Progress(phase, done, total, self._fraction))

    def relay(self, progress: Progress) -> None:
        """Pass on a step of work that knows nothing of the whole."""
        self._phase = progress.phase
        self._sink(Progress(progress.phase, progress.done, progress.total, self._fraction))

    def check(self) -> None:
        """Raise Cancelled once cancellation was asked for."""
        if self.cancelled():
            raise Cancelled(f"cancelled in phase {self._phase}")
