"""Progress of long work on stderr, when somebody watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from spinal.progress import Progress as Report
from spinal.progress import ProgressSink, ignore_progress
from spinal.text import visible


@contextmanager
def bar(label: str) -> Iterator[ProgressSink]:
    """A sink that draws a bar named ``label`` on a terminal and is silent otherwise."""
    if not sys.stderr.isatty():
        yield ignore_progress
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
        task = drawn.add_task(visible(label), total=1.0)

        def show(report: Report) -> None:
            drawn.update(task, completed=report.fraction, description=visible(f"{label}: {report.phase}"))

        yield show
