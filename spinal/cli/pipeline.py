"""The pipeline that a command runs in: GitHub's step summary and annotations, links, and errors for its reports.

What a pipeline says of itself stands in variables that its documentation names; they are read here and nowhere else.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from spinal.cli.output import Shown, place_of, say, target, write_atomically
from spinal.cli.signals import Stopped, said
from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.errors import InternalError, SpinalError, UsageError
from spinal.report.formats.format import Problem
from spinal.report.github import LARGEST, annotations, failure_annotation, failure_summary, summary

SUMMARY = "GITHUB_STEP_SUMMARY"
STEP_LIMIT = 1024 * 1024
"""Bytes from which on GitHub drops the summary of a step."""
MARGIN = 4096


def check_pipeline(outputs: list[Path], *, github: bool) -> None:
    """Refuse what would be lost or overwritten, before any work; raises UsageError."""
    named = os.environ.get(SUMMARY, "")
    if github:
        if not named:
            raise UsageError(
                f"--github: {SUMMARY} is not set", hint="use it in a step of GitHub Actions; elsewhere -o report.md"
            )
        if Path(named).is_dir() or not Path(named).absolute().parent.is_dir():
            raise UsageError(f"--github: {SUMMARY} names no file that can be written", hint="leave it as GitHub set it")
    for path in outputs:
        if named and place_of(target(path)[1]) == place_of(Path(named)):
            raise UsageError(
                f"-o {path}: this would overwrite the step summary", hint="use --github, which appends to it"
            )


def pipeline_links() -> dict[str, str]:
    """Addresses of what the pipeline keeps of this job, by label; empty outside of one that tells."""
    job = web_address(os.environ.get("CI_JOB_URL", ""))
    return {} if job is None else {"artifacts of the job": f"{job.rstrip('/')}/artifacts/browse"}


def web_address(text: str) -> str | None:
    """An address that may stand in a report: http or https, without a name or password, in plain characters."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    # A bracket would end what the address stands in.
    if not text.isascii() or any(char in "<>()\"'\\ `|" or not char.isprintable() for char in text.strip()):
        return None
    shown = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, shown if port is None else f"{shown}:{port}", parts.path, parts.query, ""))


def tell_github(document: Trace | Comparison | Series, shown: Shown) -> None:
    """Append to the step summary, and print annotations to stderr, which GitHub reads as it reads stdout."""
    if isinstance(document, Comparison | Series):
        _say_all(annotations(document, shown.reader))
    place = Path(os.environ.get(SUMMARY, ""))
    room = min(LARGEST, STEP_LIMIT - MARGIN - _size(place))
    _append(place, summary(document, shown.reader, room))


@contextmanager
def failures_told(shown: Shown, subject: str) -> Iterator[None]:
    """Let an error reach the reports that can say one, too, before it ends the command."""
    try:
        yield
    except SpinalError as error:
        tell_failure(shown, error.to_problem(), subject)
        raise
    except Stopped as stopped:
        # Where no report can say so, how the command ended is all there is to say.
        if shown.github or any(target(path)[0].render_failure for path in shown.outputs):
            if not stopped.told:
                say(f"{stopped.word}; nothing was judged")
                stopped.told = True
                said.set()
            detail = f"the command was {stopped.word} before there was a verdict"
            tell_failure(shown, {"code": stopped.word, "detail": detail, "hint": "run it again"}, subject)
        raise
    except Exception as error:
        tell_failure(shown, InternalError(f"unexpected {type(error).__name__}: {error}").to_problem(), subject)
        raise


def tell_cancelled(shown: Shown, audit: Mapping[str, Any], subject: str) -> None:
    """Say in the reports that can that an audit was cancelled, if it was."""
    if audit["state"] == "CANCELLED":
        tell_failure(shown, audit["error"] or {"code": "cancelled", "detail": "the audit was cancelled"}, subject)


def tell_failure(shown: Shown, problem: Problem, subject: str) -> None:
    """Say in every report that can that nothing was judged; others are not written, so that nobody takes them for a
    verdict. What goes wrong meanwhile is said, and hides no error; with ``--json`` stderr holds the problem alone."""
    for path in shown.outputs:
        told = _failure_in(path, problem, subject)
        if not shown.as_json:
            say(told)
    if shown.github:
        _say_all([failure_annotation(problem, subject)])
        place = Path(os.environ.get(SUMMARY, ""))
        text = failure_summary(problem, subject)
        try:
            _append(place, text if _size(place) + len(text.encode()) < STEP_LIMIT - MARGIN else "")
        except UsageError as error:
            say(f"error: {error.detail}")


def _failure_in(path: Path, problem: Problem, subject: str) -> str:
    """Write that nothing was judged where the format can say so; what became of the file."""
    made, place = target(path)
    if made.render_failure is None:
        left = "; what lies there is older" if place.exists() else ""
        return f"not written: {place} ({made.name} cannot say that nothing was judged{left})"
    try:
        write_atomically(place, made.render_failure(problem, subject))
    except UsageError as error:
        return f"error: {error.detail}"
    return f"wrote {place} (an error, no verdict)"


def _say_all(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _append(place: Path, text: str) -> None:
    if not text:
        say(f"warning: the step summary is full, nothing was added to {SUMMARY}")
        return
    try:
        with place.open("a", encoding="utf-8", errors="replace") as file:
            file.write(f"\n{text}" if _size(place) else text)
    except OSError as error:
        raise UsageError(f"--github: {error.strerror or error}", hint="choose another place with -o") from error


def _size(place: Path) -> int:
    try:
        return place.stat().st_size
    except OSError:
        return 0
