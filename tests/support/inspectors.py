"""Processes that look at checkpoints, kept from one test for the next: starting one takes longer than most tests."""

from typing import Any, ClassVar

from spinal.checkpoints.bounded import Bounds, Inspectors
from spinal.checkpoints.fetching.store import ModelStore


class KeptInspectors(Inspectors):
    """Begins with what others with the same bounds have left, and leaves its own behind."""

    _left: ClassVar[dict[Bounds, list[Any]]] = {}

    def __init__(self, bounds: Bounds, store: ModelStore | None = None) -> None:
        super().__init__(bounds, store)
        self._idle = self._left.pop(bounds, [])

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        self._left.setdefault(self._bounds, []).extend(idle)
        super().close()
