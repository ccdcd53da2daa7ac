"""Lines, words and tables on a terminal, of text that it shows as it is and obeys in nothing."""

from dataclasses import replace

from rich.console import Console
from rich.text import Text

from spinal.report.content import Table
from spinal.report.formats.columns import drawn
from spinal.report.formats.plain import can_show, in_encoding
from spinal.report.formats.strip import BARS
from spinal.report.formats.wrapping import wrapped

LEAST = 30
"""Columns below which lines are wider than the terminal."""


class Page:
    """Lines of one console, of text that it shows as it is and obeys in nothing."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.width = max(console.width, LEAST)
        self._encoding = console.encoding
        self.plain = not can_show(f"{BARS}·━", self._encoding)

    def clean(self, text: str) -> str:
        """``text`` without what the terminal would obey, or cannot show."""
        return in_encoding(text, self._encoding)

    def blank(self) -> None:
        self._console.print()

    def line(self, line: Text | str, style: str = "") -> None:
        """One line that fits."""
        shown = line if isinstance(line, Text) else Text(line, style)
        self._console.print(shown, soft_wrap=True, highlight=False)

    def say(self, text: str, style: str = "", indent: str = "", hanging: str | None = None) -> None:
        """Words, in as many lines as they need."""
        for line in wrapped(self.clean(text), self.width, indent, hanging):
            self.line(line, style)

    def broken(self, text: str) -> list[str]:
        """Words in lines that fit, at least one."""
        return wrapped(self.clean(text), self.width) or [""]

    def heading(self, text: str) -> None:
        self.blank()
        self.say(text, "bold")

    def table(self, table: Table) -> None:
        cleaned = replace(
            table,
            header=tuple(map(self.clean, table.header)),
            rows=tuple(tuple(map(self.clean, row)) for row in table.rows),
            note=self.clean(table.note),
        )
        lines = drawn(cleaned, self.width)
        for number, line in enumerate(lines):
            self.line(line, "dim" if number == 1 else "")
