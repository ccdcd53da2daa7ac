"""Bringing the checkpoints that references name to this host, and keeping them there while they are looked at."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from spinal.checkpoints.copies import Copy, Entry
from spinal.checkpoints.fetching.gather import Gathered, Want, gather
from spinal.checkpoints.fetching.store import ModelStore
from spinal.checkpoints.sources.base import Pinned
from spinal.checkpoints.sources.reach import Reach
from spinal.progress import CancelCheck, ProgressSink, ignore_progress, never_cancelled


class Collector:
    """Copies made when they are asked for; they stay until the context exits. For one thread.

    ``want`` says how much of a checkpoint: its weights, or of these the headers alone.
    """

    def __init__(
        self,
        reach: Reach,
        store: ModelStore,
        *,
        want: Want,
        progress: ProgressSink = ignore_progress,
        cancelled: CancelCheck = never_cancelled,
        deadline: float | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self._reach, self._store, self._want = reach, store, want
        self._progress, self._cancelled = progress, cancelled
        self._deadline, self._patience_s = deadline, patience_s
        self._stack = ExitStack()
        self._found: dict[tuple[str, Want], Copy] = {}
        self._gathered: list[Gathered] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def has(self, reference: str) -> bool:
        """Whether it was asked for before."""
        return any(known == reference for known, _ in self._found)

    def find(self, reference: str, *, tokenizer: bool = False) -> Copy:
        """The copy; raises as :meth:`Reach.pin` and :func:`gather`."""
        want = Want.TOKENIZER if tokenizer else self._want
        if (reference, want) not in self._found:
            self._found[reference, want] = self._bring(self._reach.pin(reference), want)
        return self._found[reference, want]

    def discard(self, *, only_damaged: bool = False) -> None:
        """Remove what was brought from the store: it was found to hold something else than its source declares; or,
        with ``only_damaged``, some file was, and it is not known which."""
        for gathered in self._gathered:
            gathered.discard(only_damaged=only_damaged)

    def _bring(self, pinned: Pinned, want: Want) -> Copy:
        if pinned.files is None:
            return Copy(pinned.name, pinned.revision, Path(pinned.location))
        gathered = self._stack.enter_context(
            gather(
                pinned,
                self._reach.remote(pinned.scheme),
                self._store,
                want=want,
                progress=self._progress,
                cancelled=self._cancelled,
                deadline=self._deadline,
                patience_s=self._patience_s,
            )
        )
        self._gathered.append(gathered)
        return Copy(
            name=pinned.name,
            revision=pinned.revision,
            folder=gathered.folder,
            store=self._store.folder,
            listing=tuple(Entry(each.name, each.size, each.content, each.tag) for each in pinned.files),
            sha256=gathered.sha256,
            whole=want is not Want.HEADERS,
            missing=gathered.missing,
        )
