"""Reports as tables on a terminal."""

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table as RichTable

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, headline, tables, title
from spinal.text import visible

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "inconclusive": "magenta"}


def escape(text: str) -> str:
    """Text that a terminal shows as it is and obeys in nothing: names come from outside."""
    return escape_markup(visible(text))


def print_document(document: Trace | Comparison, console: Console) -> None:
    """Verdict and place first, then the tables."""
    console.print(f"[bold]{escape(title(document))}[/bold]")
    for table in tables(document):
        if table.rows and table.title != "Provenance":
            console.print(_rich(table))
    for warning in document.warnings:
        console.print(f"[yellow]![/yellow] {escape(warning)}")
    if isinstance(document, Comparison):
        outcome = document.verdict.outcome
        console.print(f"[bold {COLOURS[outcome]}]{outcome.upper()}[/] {escape(headline(document))}")
        for reason in document.verdict.reasons:
            console.print(f"  - {escape(reason)}")


def _rich(table: Table) -> RichTable:
    made = RichTable(
        title=escape(table.title), caption=escape(table.note) or None, title_justify="left", caption_justify="left"
    )
    for index, name in enumerate(table.header):
        made.add_column(escape(name), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
