"""Checkpoints looked at in child processes with limits on wall clock and memory, so that no file of a caller holds a
thread, or takes the memory, of the service that asks."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import spinal
from spinal.checkpoints.copies import Copy
from spinal.checkpoints.fetching.collect import Collector
from spinal.checkpoints.fetching.gather import Want
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.folders import Step
from spinal.checkpoints.sources.reach import Reach
from spinal.checkpoints.survey import Surveyed
from spinal.checkpoints.wire import (
    Closed,
    Message,
    heard_error,
    heard_folder,
    heard_survey,
    receive,
    send,
    told_copies,
)
from spinal.errors import (
    DeadlineExceeded,
    InspectionExceeded,
    ModelReferenceInvalid,
    NotReady,
    SourceUnavailable,
    SpinalError,
    StorageUnavailable,
    UsageError,
)
from spinal.errors.faults import shown

START_S = 60.0
"""A child that has not started after this long is given up."""
END_S = 1.0
"""So long a service that ends waits for each of its children."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "HOME")
"""What of the environment a child gets: nothing that could hold a secret."""
SINGLE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
"""One thread: more would do nothing but reserve memory."""
QUIET = {"MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "RUST_BACKTRACE": "0"}
FETCH_PATIENCE_S = 10.0
"""A source that gives nothing for so long is away, to whoever waits for an answer."""
SMALLER = "check its files: nothing that a model needs takes so long or so much"


@dataclass(frozen=True)
class Bounds:
    """What one inspection may take."""

    seconds: int = 45
    """Of the wall clock, for all checkpoints of one request. A tokenizer of 262,144 tokens, among the largest of today,
    took 11 on two cores that five other processes kept busy."""
    megabytes: int = 2048
    """Of address space. That tokenizer took 730."""
    children: int = 4
    """So many inspections go on at once."""
    patience_s: float = 5.0
    """How long a request waits for a child that is free."""
    fetches: int = 8
    """So many requests ask sources over a network at once."""
    fetch_seconds: float = 45.0
    """Of the wall clock, for all that one request reads of them."""


class InspectorBroke(RuntimeError):
    """A defect of ours in a child; the text is its traceback."""


class Inspectors:
    """The children of one service. Each is started when first needed, kept for the next request, and replaced when it
    broke or was ended. Safe to share between threads.

    Examples
    --------
    >>> with Inspectors(Bounds(children=1)) as inspectors:
    ...     found = inspectors.survey({"candidate": "local:sft"}, Reach((Path("examples/checkpoints"),)))
    >>> found["candidate"].architecture
    'LlamaForCausalLM'
    """

    def __init__(self, bounds: Bounds, store: ModelStore | None = None) -> None:
        """``store`` keeps what is read of checkpoints that live elsewhere; without one there are none."""
        self._bounds = bounds
        self._store = store
        self._turns = threading.BoundedSemaphore(bounds.children)
        self._fetches = threading.BoundedSemaphore(bounds.fetches)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._ended: list[_Child] = []
        self._closed = False
        self._working = 0

    def __enter__(self) -> "Inspectors":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start one child ahead of the first request; does not wait for it."""
        self._put_back(self._take())

    def survey(self, references: Mapping[str, str], reach: Reach) -> dict[str, Surveyed]:
        """:func:`spinal.checkpoints.survey.survey` in a child, of what ``reach`` allows. What lives elsewhere is asked
        for here, so that no child needs a connection or a secret: metadata, settings and the headers of weights.

        Raises its errors and those of the sources, InspectionExceeded where a bound is met, NotReady where no child
        came free in time, StorageUnavailable where the disk of the checkpoints fails.
        """
        with self._brought(reach) as brought:
            for reference in references.values():
                if reach.is_remote(reference):
                    brought.bring(reference)
            about = ", ".join(references.values())
            while True:
                question: Message = {
                    "references": dict(references),
                    "roots": [os.path.abspath(root) for root in reach.roots or ()],
                    "copies": told_copies(brought.found, brought.failed),
                }
                answer = self._told(question, about)
                if "needs" not in answer:
                    return heard_survey(answer)
                brought.bring(answer["needs"])

    @contextmanager
    def _brought(self, reach: Reach) -> Iterator["_Brought"]:
        with ExitStack() as stack:
            yield _Brought(reach, self._store, stack, self._fetches, self._bounds)

    def expand(self, pattern: str, roots: Sequence[Path]) -> list[Step]:
        """:func:`spinal.checkpoints.folders.expand_folder` in a child; raises its errors, and those of
        :meth:`survey`."""
        question: Message = {"folder": pattern, "roots": [os.path.abspath(root) for root in roots]}
        return heard_folder(self._told(question, pattern))

    def working(self) -> int:
        """How many children look at something now."""
        return self._working

    def _count(self, more: int) -> None:
        with self._lock:
            self._working += more

    def _told(self, question: Message, about: str) -> Message:
        """What a child found; raises what it raised."""
        if not self._turns.acquire(timeout=self._bounds.patience_s):
            raise NotReady("every inspector is busy with another checkpoint", hint="send the request again in a second")
        self._count(1)
        try:
            answer = self._asked(question)
        finally:
            self._count(-1)
            self._turns.release()
        self._refuse(answer, about)
        return answer

    def _asked(self, question: Message) -> Message:
        """The answer of a child; one that died gets a successor, once, as it need not have been the files' fault."""
        for last in (False, True):
            child, goes_on = self._take(), False
            try:
                answer = child.ask(question, self._bounds.seconds)
                goes_on = not answer["ends"]
                return answer
            except TimeoutError:
                return {"exceeded": "time"}
            except Closed:
                if last and not child.started:
                    raise _no_inspector() from None
                if last:
                    return {"exceeded": "memory"}
            finally:
                # One that was left in the midst of a question would give its answer to the next.
                (self._put_back if goes_on else self._end)(child)
        raise AssertionError("unreachable")

    def _refuse(self, answer: Message, about: str) -> None:
        """Raises what the answer says, where it says that nothing was found."""
        if "found" in answer or "folder" in answer or "needs" in answer:
            return
        if "error" in answer:
            raise heard_error(answer)
        if "system" in answer:
            raise StorageUnavailable(f"the checkpoints' storage failed: {answer['system']}", hint="try again later")
        if "broken" in answer:
            raise InspectorBroke(answer["broken"])
        limit = (
            f"{self._bounds.seconds} s" if answer["exceeded"] == "time" else f"{self._bounds.megabytes} MB of memory"
        )
        raise InspectionExceeded(f"inspecting {about} needs more than the {limit} that are allowed", hint=SMALLER)

    def _take(self) -> "_Child":
        with self._lock:
            if self._idle:
                # The latest first: it remembers most.
                return self._idle.pop()
        try:
            return _Child(self._bounds)
        except OSError as error:
            raise _no_inspector() from error

    def _put_back(self, child: "_Child") -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        child.end()

    def _end(self, child: "_Child") -> None:
        """End ``child`` and start another, so that the next request need not wait for one."""
        child.end()
        with self._lock:
            self._ended = [each for each in [*self._ended, child] if not each.is_gone()]
        with suppress(OSError):
            self._put_back(_Child(self._bounds))

    def close(self) -> None:
        """End all children. One that still works ends with its answer."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            ended = [*idle, *self._ended]
        for child in idle:
            child.end()
        for child in ended:
            child.wait(END_S)


class _Brought:
    """What one request has asked sources for."""

    def __init__(
        self,
        reach: Reach,
        store: ModelStore | None,
        stack: ExitStack,
        turns: threading.BoundedSemaphore,
        bounds: Bounds,
    ) -> None:
        self.found: dict[str, Copy] = {}
        self.failed: dict[str, SpinalError] = {}
        self._reach, self._store, self._stack = reach, store, stack
        self._turns, self._bounds = turns, bounds
        self._collector: Collector | None = None
        self._deadline = time.monotonic() + bounds.fetch_seconds

    def bring(self, reference: str) -> None:
        """Make a copy, or keep why there is none; a source that is away ends the request, and so does what only an
        operator can put right. Raises SourceUnavailable, NotReady, ModelStoreFull, StorageUnavailable."""
        if reference in self.found or reference in self.failed:
            return
        try:
            self.found[reference] = self._asked().find(reference)
        except DeadlineExceeded as error:
            raise SourceUnavailable(
                f"{shown(reference)}: its source did not send enough in {self._bounds.fetch_seconds:.0f} s",
                hint="send the request again later",
            ) from error
        except UsageError as error:
            # Of a store, or of a file with a secret: nothing that whoever asks could do better.
            raise NotReady(
                f"models that live elsewhere cannot be looked at now: {error.detail}",
                hint="send the request again when an operator has seen to it",
            ) from error
        except SpinalError as error:
            if error.retryable or isinstance(error, NotReady):
                raise
            self.failed[reference] = error

    def _asked(self) -> Collector:
        if self._collector is None:
            if self._store is None:
                raise ModelReferenceInvalid(
                    "models that live elsewhere are not looked at here", hint="give a folder below a model root"
                )
            if not self._turns.acquire(timeout=self._bounds.patience_s):
                raise NotReady("too many requests ask model sources at once", hint="send the request again in a second")
            self._stack.callback(self._turns.release)
            self._collector = self._stack.enter_context(
                Collector(
                    self._reach, self._store, want=Want.HEADERS, deadline=self._deadline, patience_s=FETCH_PATIENCE_S
                )
            )
        return self._collector


def _no_inspector() -> NotReady:
    return NotReady("no inspector could be started", hint="send the request again later")


class _Child:
    """One process, asked by one thread at a time."""

    def __init__(self, bounds: Bounds) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | SINGLE | QUIET
        # What this process imports from, wherever that was said.
        places = [str(Path(spinal.__file__).parents[1]), *filter(None, sys.path)]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(places))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "spinal.checkpoints.child", str(bounds.seconds), str(bounds.megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self.started = False

    def ask(self, question: Message, seconds: float) -> Message:
        """Raises Closed when the child is dead, TimeoutError when it needs longer than ``seconds``."""
        if not self.started:
            try:
                receive(self._answers.fileno(), time.monotonic() + START_S)
            except TimeoutError as error:
                raise _no_inspector() from error
            self.started = True
        send(self._questions.fileno(), question)
        return receive(self._answers.fileno(), time.monotonic() + seconds)

    def end(self) -> None:
        """Without waiting: a child that waits for a dead mount does not end before the mount answers."""
        self._process.kill()
        self._questions.close()
        self._answers.close()

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def is_gone(self) -> bool:
        """Whether it has ended; one that has leaves nothing behind."""
        return self._process.poll() is not None
