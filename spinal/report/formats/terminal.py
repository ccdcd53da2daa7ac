"""Reports as tables on a terminal."""

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.padding import Padding
from rich.table import Table as RichTable

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, reasons, sections, title
from spinal.text import visible

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "inconclusive": "magenta"}
WIDE = 110
"""Columns of a terminal below which tables keep only the columns that matter most."""


def escape(text: str) -> str:
    """Text that a terminal shows as it is and obeys in nothing: names come from outside."""
    return escape_markup(visible(text))


def print_document(document: Trace | Comparison, console: Console) -> None:
    """Tables first, so that verdict, reasons and sentences stand last, where a reader of a terminal is."""
    console.print(f"[bold]{escape(title(document))}[/bold]")
    found = sections(document)
    for section in found:
        for table in section.tables:
            if section.about != "provenance":
                console.print()
                console.print(_rich(table.narrowed() if console.width < WIDE else table))
    if document.warnings:
        console.print()
    for warning in document.warnings:
        console.print(f"[yellow]![/yellow] {escape(warning)}")
    if isinstance(document, Comparison):
        outcome = document.verdict.outcome
        first, *others = reasons(document) or ("",)
        console.print(f"\n[bold {COLOURS[outcome]}]{outcome.upper()}[/] {escape(first)}")
        for reason in others:
            console.print(Padding(f"- {escape(reason)}", (0, 0, 0, 2)))
    for section in found:
        if section.said:
            console.print(f"\n[bold]{escape(section.title)}[/bold]")
        for one in section.said:
            console.print(Padding(escape(one.text), (0, 0, 0, 2)))
            if one.null:
                console.print(Padding(f"[dim]{escape(one.null)}[/dim]", (0, 0, 0, 4)))


def _rich(table: Table) -> RichTable:
    made = RichTable(
        title=escape(table.title), caption=escape(table.note) or None, title_justify="left", caption_justify="left"
    )
    for index, name in enumerate(table.header):
        made.add_column(escape(name), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*(escape(cell) for cell in row))
    return made
