"""What every format of a report has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from spinal.documents.files import FileDigests
from spinal.documents.trace import Trace
from spinal.errors import NoVerdict
from spinal.report.reported import Judged, Reported

Problem = Mapping[str, Any]
"""An error as a problem object: ``code``, ``title``, ``detail``, ``hint``."""


@dataclass(frozen=True)
class Reader:
    """Who reads a report, where that changes what it says."""

    fail_on: Literal["fail", "warn"] = "fail"
    """The mildest outcome that fails a pipeline."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Label -> absolute address of what belongs to the document, for example its page. ``step N`` leads to the report
    of the checkpoint at that step of a training run."""
    files: Mapping[str, FileDigests] = field(default_factory=dict)
    """Role -> the files of that checkpoint, where they are known."""


ANYBODY = Reader()


@dataclass(frozen=True)
class Format:
    """One way to write a document as a file."""

    name: str
    """As ``?format=`` of the API takes it."""
    suffixes: tuple[str, ...]
    """Endings of file names that ask for it, the usual one first; none where ``-o NAME=PATH`` has to name it."""
    media_type: str
    render: Callable[[Reported], str]
    """Pure: the same document gives the same text."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What a server sends with it."""
    render_for: Callable[[Judged, Reader], str] | None = None
    """For a format that tells one reader something else than another; ``render`` is then that for anybody."""
    render_failure: Callable[[Problem, str], str] | None = None
    """For a format that can say that nothing was judged: a problem, and what was to be judged."""
    needs_verdict: bool = False
    """Whether there is nothing to say of a trace."""
    needs_link: bool = False
    """Whether it is made of links, and says nothing without one."""

    files_of: Callable[[Reported], Mapping[str, str]] | None = None
    """For a format that lists files: role -> weights digest of the checkpoints whose files it lists."""

    def written(self, document: Reported, reader: Reader = ANYBODY) -> str:
        """The document for one reader. Raises NoVerdict for a trace where the format tells a verdict."""
        if self.render_for is None or isinstance(document, Trace):
            return self.render(document)
        return self.render_for(document, reader)


def verdict_format(
    name: str,
    suffixes: tuple[str, ...],
    media_type: str,
    render_for: Callable[[Judged, Reader], str],
    *,
    render_failure: Callable[[Problem, str], str] | None = None,
    needs_link: bool = False,
) -> Format:
    """A format that tells a verdict to a pipeline, and of a trace nothing: one has no verdict."""

    def render(document: Reported) -> str:
        if isinstance(document, Trace):
            raise NoVerdict(
                f"a trace has no verdict, and {name} tells nothing else",
                hint="compare it with a reference, or take json, html or md",
            )
        return render_for(document, ANYBODY)

    return Format(
        name, suffixes, media_type, render, render_for=render_for, render_failure=render_failure, needs_verdict=True,
        needs_link=needs_link,
    )  # fmt: skip
