"""Kept comparisons: what was measured of a pair, without a verdict, which is made again in no time under any policy."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from spinal.cache.conditions import scorer_files
from spinal.cache.entries import Conditions, Entries, usable
from spinal.cache.environment import cache_folder
from spinal.documents.canonical import digest_of
from spinal.documents.comparison import ComparisonContent

log = logging.getLogger(__name__)

MAX_BYTES = 2**30
"""Beyond this the comparisons that were used longest ago go first: a thousand of them and more fit."""
COMPARISON = "comparison.json"


class Comparisons:
    """Kept comparisons. An entry is in use while it is read or written, and no file stays open: a run may have more
    checkpoints than a process may have files."""

    def __init__(self, folder: Path, conditions: Conditions, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._conditions = conditions

    def find(self, digest: str, said: Sequence[str | None] = ()) -> ComparisonContent | None:
        """The comparison of that digest, measured under the present conditions, in which both sides and the prompts are
        called as ``said``."""
        with closing(self._entries()) as entries:
            found = entries.read(
                self._name(digest, said),
                (COMPARISON,),
                lambda entry: ComparisonContent.model_validate_json((entry / COMPARISON).read_bytes()),
            )
        return found if found is not None and found.digest == digest else None

    def keep(self, found: ComparisonContent, said: Sequence[str | None] = ()) -> None:
        """Make an entry of what was measured; of a comparison that was judged, its verdict is left out. A line in the
        log says where it cannot be kept."""
        text = found.model_dump_json(by_alias=True, exclude={"verdict"}).encode()
        with closing(self._entries()) as entries:
            try:
                unfinished = entries.place()
            except OSError as error:
                log.warning("a comparison is not kept: %s", error)
                return
            entries.keep(unfinished, self._name(found.digest, said), {COMPARISON: text}, (), self._conditions)

    def _entries(self) -> Entries:
        return Entries(self._folder, "comparison", self._max_bytes)

    def _name(self, digest: str, said: Sequence[str | None]) -> str:
        # An analysis that is being worked on must not be answered with what it found before.
        under = {"conditions": self._conditions(), "scorer": scorer_files(), "said": list(said)}
        return f"{digest}-{digest_of(under)[:16]}"


@contextmanager
def open_comparisons(conditions: Conditions, folder: Path | None = None) -> Iterator[Comparisons | None]:
    """The comparisons of this user; None, with a line in the log, where there is no place for them."""
    with usable(lambda: cache_folder("comparisons") if folder is None else folder, "comparisons") as where:
        if where is None:
            yield None
            return
        yield Comparisons(where, conditions)
