"""Where results and errors of the command line go: documents to stdout, everything else to stderr."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from spinal.cli.next_steps import next_step
from spinal.cli.signals import written
from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.documents.trace import Trace
from spinal.errors import ExitCode, NoVerdict, SpinalError, UsageError
from spinal.report import render
from spinal.report.content import title
from spinal.report.content.first import in_a_few_lines
from spinal.report.content.lead import sentences
from spinal.report.content.origin import about_trace
from spinal.report.formats import FORMATS, Format, format_of
from spinal.report.formats.format import Reader
from spinal.report.formats.plain import in_encoding
from spinal.report.formats.series_terminal import print_series, series_in_a_few_lines
from spinal.report.formats.terminal import print_document
from spinal.text import visible_json


@dataclass(frozen=True)
class Shown:
    """How a result is told."""

    as_json: bool = False
    outputs: Sequence[Path] = ()
    brief: bool = False
    """The verdict, its reason and where the change sits, without tables."""
    github: bool = False
    """Whether a step summary of GitHub Actions is appended to, and annotations are printed."""
    fail_on: Literal["fail", "warn"] = "fail"
    """The mildest outcome that fails the pipeline, which reports for pipelines say, too."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Label -> address of what belongs to the result."""

    @property
    def reader(self) -> Reader:
        return Reader(self.fail_on, self.links)


def target(asked: Path) -> tuple[Format, Path]:
    """The format and the file that ``-o`` asks for: ``FORMAT=PATH``, or a path whose ending says the format. Raises
    UsageError for another."""
    name, equals, rest = str(asked).partition("=")
    if equals and name in FORMATS:
        if not rest:
            raise UsageError(f"-o {asked}: no file", hint=f"for example -o {name}=report")
        return FORMATS[name], Path(rest)
    found = format_of(asked.name)
    if found is not None:
        return found, asked
    known = ", ".join(suffix for made in FORMATS.values() for suffix in made.suffixes)
    hint = f"use one of {known}, or -o FORMAT=PATH with FORMAT one of {', '.join(FORMATS)}"
    if not asked.suffix:
        hint += "; a step summary of GitHub Actions is written by --github"
    raise UsageError(f"-o {asked}: unknown extension {asked.suffix!r}", hint=hint)


def check_outputs(paths: Sequence[Path], *, verdict: bool = True, links: Mapping[str, str] | None = None) -> None:
    """Refuse output files that could not be written, before any work. Raises UsageError, and NoVerdict for a format
    that tells a verdict where there will be none (``verdict``). A format of links needs some, where they are known."""
    places: set[Path] = set()
    for asked in paths:
        made, path = target(asked)
        if made.needs_verdict and not verdict:
            raise NoVerdict(
                f"-o {asked}: a trace has no verdict, and {made.name} tells nothing else",
                hint="name a reference to compare with, or take json, html or md",
            )
        if made.needs_link and links is not None and not links:
            raise UsageError(
                f"-o {asked}: {made.name} is a list of links, and there is no address to link to",
                hint="use it in a GitLab job (CI_JOB_URL), or with an audit of a server",
            )
        check_file(path, asked)
        if place_of(path) in places:
            raise UsageError(f"-o {asked}: {path} is asked for twice", hint="name another file for each format")
        places.add(place_of(path))


def check_file(path: Path, asked: Path | None = None) -> None:
    """Refuse a file that could not be written, before any work; ``asked`` is what was asked for in full. Raises
    UsageError."""
    asked = path if asked is None else asked
    try:
        folder, other = path.absolute().parent.is_dir(), path.exists() and not path.is_file()
    except OSError as error:
        raise UsageError(f"-o {str(asked)[:80]}: {error.strerror}", hint="choose another name") from error
    if not folder:
        raise UsageError(f"-o {asked}: no folder {path.parent}", hint="create it first")
    # A file is put in the place of what is there: one that may replace a device would leave the machine without.
    if other or not os.access(path.absolute().parent, os.W_OK):
        raise UsageError(f"-o {asked}: cannot be written", hint="choose another place")


def place_of(path: Path) -> Path:
    """The one name of a file that is written: its folder's own, whichever way leads there."""
    return path.absolute().parent.resolve() / path.name


def write_atomically(path: Path, text: str) -> None:
    """Write whole or not at all."""
    # Not made of the name, which may be as long as a name can be.
    partial = path.with_name(f".spinal.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
        written.set()
    except OSError as error:
        raise UsageError(f"-o {path}: {error.strerror or error}", hint="choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def emit(document: Trace | Comparison | Series, shown: Shown) -> None:
    """Write the files asked for, then to stdout: JSON where that is asked for, else a report on a terminal and a few
    lines elsewhere."""
    for asked in shown.outputs:
        made, path = target(asked)
        write_atomically(path, made.written(document, shown.reader))
        say(f"wrote {path}")
    if shown.as_json:
        sys.stdout.write(render(document, "json"))
    elif on_terminal():
        show(document, brief=shown.brief)
    else:
        for line in _few_lines(document):
            say(line, to_stdout=True)
        for asked in shown.outputs:
            say(f"Report: {target(asked)[1]}", to_stdout=True)


def on_terminal() -> bool:
    """Whether somebody reads along."""
    return sys.stdout.isatty()


def show(document: Trace | Comparison | Series, *, brief: bool) -> None:
    """The report, as wide as the terminal."""
    if isinstance(document, Series):
        print_series(document, Console(emoji=False), brief=brief)
    else:
        print_document(document, Console(emoji=False), brief=brief)


def _few_lines(document: Trace | Comparison | Series) -> tuple[str, ...]:
    if isinstance(document, Series):
        return series_in_a_few_lines(document)
    if isinstance(document, Comparison):
        return (title(document), *in_a_few_lines(document.verdict, sentences(document)))
    return (title(document), about_trace(document))


def report_error(error: SpinalError, *, as_json: bool) -> ExitCode:
    """One line for the cause, one for the next step, on stderr; a problem object with ``--json``."""
    error.hint = next_step(error)
    if as_json:
        say_json(error.to_problem(here=True), to_stderr=True)
    else:
        say(f"error: {error.detail}")
        if error.hint:
            say(f"next: {error.hint}")
    return error.exit_code


def say(line: str, *, to_stdout: bool = False) -> None:
    """Write one line, which the terminal shows as it is: names and messages come from files and servers."""
    stream = sys.stdout if to_stdout else sys.stderr
    stream.write(in_encoding(line, stream.encoding or "utf-8") + "\n")


def say_json(value: Any, *, to_stderr: bool = False) -> None:
    """Write a value on one line, in characters that no terminal obeys."""
    (sys.stderr if to_stderr else sys.stdout).write(visible_json(json.dumps(value)) + "\n")
