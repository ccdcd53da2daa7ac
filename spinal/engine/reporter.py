"""Progress and cancellation inside the engine."""

from spinal.errors import Cancelled
from spinal.progress import CancelCheck, Progress, ProgressSink


class Reporter:
    """Turns steps of phases with known shares into monotone progress, and cancellation into an exception."""

    def __init__(self, sink: ProgressSink, cancelled: CancelCheck) -> None:
        self._sink = sink
        self.cancelled = cancelled
        self._fraction = 0.0
        self._phase = "load"

    def step(self, phase: str, done: int, total: int, span: tuple[float, float]) -> None:
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
