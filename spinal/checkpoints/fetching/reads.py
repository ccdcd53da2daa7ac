"""Reading from a source that comes and goes: what is left is asked for again until it is there, or for too long nothing
came."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from spinal.checkpoints.fetching.halting import Halt
from spinal.checkpoints.sources.base import Listed, Pinned, RemoteSource
from spinal.errors import DeadlineExceeded
from spinal.errors.faults import shown
from spinal.errors.sources import SourceUnavailable

FIRST_PAUSE_S, MOST_PAUSE_S = 0.25, 15.0


@dataclass
class Reading:
    """One file of a source. ``fetched`` counts every byte that the source sent, those sent twice as well."""

    pinned: Pinned
    listed: Listed
    source: RemoteSource
    halt: Halt
    patience_s: float
    fetched: int = 0

    @property
    def called(self) -> str:
        """The file as errors name it."""
        return f"{shown(self.listed.name)} of {shown(self.pinned.name)}"

    def pour(self, start: int, end: int, take: Callable[[bytes], None], *, rest: bool = False) -> bool:
        """Give ``take`` the bytes from ``start`` to ``end``, each once and in order. With ``rest`` the file is to end
        there: returns False where it was seen to go on.

        A source that is away or cuts off is asked again, with longer and longer pauses. Raises SourceUnavailable once
        nothing new has come for ``patience_s``, or would before the deadline; whatever else the source and ``take``
        raise; and as :meth:`Halt.check`.
        """
        pauses = _Pauses(self.halt, self.patience_s)
        at, ends_there = start, True
        while at < end:
            error = SourceUnavailable(f"{self.called}: the source ended before byte {end:,}")
            try:
                with self.source.read(self.pinned, self.listed, at, None if rest else end) as pieces:
                    for piece in pieces:
                        self.halt.check()
                        self.fetched += len(piece)
                        if piece:
                            pauses.reset()
                        elif pauses.are_over():
                            break
                        ends_there = ends_there and len(piece) <= end - at
                        taken = piece[: end - at]
                        take(taken)
                        at += len(taken)
                        if at >= end:
                            break
            except SourceUnavailable as raised:
                error = raised
            if at < end:
                pauses.wait_after(error)
        return ends_there


class _Pauses:
    """How long to wait before the next try, and when to give up."""

    def __init__(self, halt: Halt, patience_s: float) -> None:
        self._halt, self._patience_s = halt, patience_s
        self.reset()

    def reset(self) -> None:
        """Something came."""
        self._since, self._next = time.monotonic(), FIRST_PAUSE_S

    def are_over(self) -> bool:
        return time.monotonic() - self._since >= self._patience_s

    def wait_after(self, error: SourceUnavailable) -> None:
        """Wait for the next try, or raise ``error`` where there is none."""
        left = self._since + self._patience_s - time.monotonic()
        until = self._halt.left()
        if until is not None:
            left = min(left, until)
        asked = error.retry_after_s or 0.0
        if left <= 0 or asked > left:
            raise error
        try:
            self._halt.wait(min(max(self._next, asked), left))
        except DeadlineExceeded:
            # What time ran out on says more.
            raise error from None
        self._next = min(2 * self._next, MOST_PAUSE_S)
