"""Threads that fetch, and the caller's thread that watches over them."""

from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Protocol

from spinal.checkpoints.fetching.halting import Halt
from spinal.errors import Cancelled, DeadlineExceeded
from spinal.progress import Progress, ProgressSink

TICK_S = 0.2
"""So often it is looked whether somebody cancelled, and said how far it is."""


class Work(Protocol):
    """Something to obtain: ``done`` of ``size`` bytes of it are there."""

    done: int

    @property
    def size(self) -> int: ...

    def obtain(self) -> object: ...


class Crew:
    """Threads that obtain files, while the caller's thread tells how far they are and looks whether to go on."""

    def __init__(self, halt: Halt, progress: ProgressSink, streams: int) -> None:
        self._halt, self._progress, self._streams = halt, progress, streams
        self._first: BaseException | None = None

    def run(self, jobs: Sequence[Work]) -> None:
        """Returns when all are done; raises the first error once no thread works any more."""
        if not jobs:
            return
        with ThreadPoolExecutor(max(1, min(self._streams, len(jobs))), "fetch") as threads:
            running = [threads.submit(self._obtain, job) for job in jobs]
            try:
                self._watch(jobs, running)
            except BaseException:
                self._halt.stop()
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _obtain(self, job: Work) -> None:
        self._halt.check()
        try:
            job.obtain()
        except BaseException as error:
            # Before the others stop, whose error that would be else.
            self._first = self._first or error
            self._halt.stop()
            raise

    def _watch(self, jobs: Sequence[Work], running: Sequence[Future[None]]) -> None:
        while True:
            _, left = wait(running, TICK_S, FIRST_EXCEPTION)
            self._tell(jobs)
            if self._first is not None:
                raise self._first
            if not left:
                return
            try:
                self._halt.check()
            except Cancelled:
                raise self._first or Cancelled("cancelled in phase fetch") from None
            except DeadlineExceeded as error:
                # The threads see the clock themselves, and one may know what time ran out on.
                wait(running)
                raise self._first or error from None

    def _tell(self, jobs: Sequence[Work]) -> None:
        # One after the other, so that a total that grows meanwhile is never passed.
        done = sum(job.done for job in jobs)
        self._progress(Progress("fetch", done, max(done, sum(job.size for job in jobs)), 0.0))
