"""Where results and errors of the command line go: documents to stdout, everything else to stderr."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from spinal.cli.next_steps import next_step
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import ExitCode, SpinalError, UsageError
from spinal.report import render
from spinal.report.content import title
from spinal.report.content.first import in_a_few_lines
from spinal.report.content.lead import sentences
from spinal.report.content.origin import about_trace
from spinal.report.formats import FORMATS, Format, format_of
from spinal.report.formats.plain import in_encoding
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


def check_outputs(paths: Sequence[Path]) -> None:
    """Refuse output files that could not be written, before any work; raises UsageError."""
    for path in paths:
        if format_of(path.suffix) is None:
            known = ", ".join(suffix for made in FORMATS.values() for suffix in made.suffixes)
            raise UsageError(f"-o {path}: unknown extension {path.suffix!r}", hint=f"use one of {known}")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"-o {path}: no folder {path.parent}", hint="create it first")
        if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(f"-o {path}: cannot be written", hint="choose another place")


def format_named(path: Path) -> Format:
    """The format that a file name asks for; :func:`check_outputs` has seen the name."""
    found = format_of(path.suffix)
    if found is None:
        raise UsageError(f"-o {path}: unknown extension {path.suffix!r}")
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UsageError(f"-o {path}: {error.strerror or error}", hint="choose another place") from error
    finally:
        partial.unlink(missing_ok=True)


def emit(document: Trace | Comparison, shown: Shown) -> None:
    """Write the files asked for, then to stdout: JSON where that is asked for, else a report on a terminal and a few
    lines elsewhere."""
    for path in shown.outputs:
        write_atomically(path, format_named(path).render(document))
        say(f"wrote {path}")
    if shown.as_json:
        sys.stdout.write(render(document, "json"))
    elif sys.stdout.isatty():
        print_document(document, Console(emoji=False), brief=shown.brief)
    else:
        for line in _few_lines(document):
            say(line, to_stdout=True)
        for path in shown.outputs:
            say(f"Report: {path}", to_stdout=True)


def _few_lines(document: Trace | Comparison) -> tuple[str, ...]:
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
