"""Kept traces with their captures."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from spinal.audit import Traced
from spinal.cache.entries import Conditions, Entries, usable
from spinal.cache.environment import cache_folder
from spinal.documents.canonical import digest_of
from spinal.documents.trace import Trace

MAX_BYTES = 20 * 2**30
"""Beyond this the entries that were used longest ago go first. The captures of a pair of seven billion parameters on
512 prompts take about half of it."""
TRACE, CAPTURE = "trace.json", "capture.safetensors"


class Cache:
    """Kept traces (:class:`spinal.audit.Captures`). Use it as a context: what was found or kept inside stays in place
    until its end."""

    def __init__(self, folder: Path, conditions: Conditions, *, max_bytes: int = MAX_BYTES) -> None:
        self._entries = Entries(folder, "trace", max_bytes)
        self._conditions = conditions

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    def find(self, digest: Callable[[], str]) -> Traced | None:
        """The trace of that digest, measured under the present conditions."""
        suffix = self._suffix()
        wanted = digest()
        found = self._read(f"{wanted}-{suffix}")
        return found if found is not None and found.trace.digest == wanted else None

    def find_document(self, document: Trace) -> Traced | None:
        """The capture behind a trace document: that of the same measurement, whatever its conditions."""
        for entry in sorted(self._entries.folder.glob(f"{document.digest}-*")):
            found = self._read(entry.name)
            if found is not None and _same_measurement(found.trace, document):
                return Traced(document, found.capture)
        return None

    def place(self) -> Path:
        """A path for a capture, in an unfinished entry of this process's own; it goes with the context if it is not
        kept."""
        return self._entries.place() / CAPTURE

    def keep(self, trace: Trace, written: Path) -> Traced:
        """Make an entry of the trace and the capture that was written to a path of :meth:`place`."""
        texts = {TRACE: trace.model_dump_json(by_alias=True).encode()}
        name = f"{trace.digest}-{self._suffix()}"
        entry = self._entries.keep(written.parent, name, texts, (CAPTURE,), self._conditions)
        return Traced(trace, written if entry is None else entry / CAPTURE)

    def _suffix(self) -> str:
        return digest_of(self._conditions())[:16]

    def _read(self, name: str) -> Traced | None:
        return self._entries.read(
            name,
            (TRACE, CAPTURE),
            lambda entry: Traced(Trace.model_validate_json((entry / TRACE).read_bytes()), entry / CAPTURE),
        )


@contextmanager
def open_cache(conditions: Conditions, folder: Path | None = None) -> Iterator[Cache | None]:
    """The traces of this user; None, with a line in the log, where there is no place for them."""
    with usable(lambda: cache_folder() if folder is None else folder, "traces") as where:
        if where is None:
            yield None
            return
        with Cache(where, conditions) as cache:
            yield cache


def _same_measurement(kept: Trace, document: Trace) -> bool:
    """Whether two traces are equal in everything but names, provenance and knobs of comparisons."""
    names = {"source": document.model.source, "revision": document.model.revision}
    other = {
        "model": kept.model.model_copy(update=names),
        "prompt_set": kept.prompt_set.model_copy(update={"name": document.prompt_set.name}),
        "profile": document.profile,
        "provenance": document.provenance,
    }
    return kept.model_copy(update=other) == document
