"""Reports as GitHub-flavoured Markdown."""

import re

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, sections, title
from spinal.report.content.depth import depth_of
from spinal.report.content.first import findings_table, first_screen, uncovered
from spinal.report.content.gauges import damage_summary
from spinal.report.formats.format import Format
from spinal.report.formats.strip import strip
from spinal.text import visible

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")

LONG = 30
"""Rows of a table from which on it is folded."""
STRIP = 100
"""Columns of the strip over the depth."""


def escape(text: str) -> str:
    """Text that Markdown shows as it is: names and labels come from outside."""
    return SPECIAL.sub(r"\\\1", visible(" ".join(text.split())))


def render_markdown(document: Trace | Comparison) -> str:
    """The first screen, then headings, lists and tables; long tables are folded."""
    parts = [f"# {escape(title(document))}", ""]
    if isinstance(document, Comparison):
        parts += _first_screen(document)
        parts += _table(damage_summary(document), heading=True)
        parts += _table(findings_table(document), heading=True)
        others = uncovered(document)
        parts += (
            ["### What the verdict does not cover", "", *(f"- {escape(why)}" for why in others), ""] if others else []
        )
    for section in sections(document):
        parts += [f"## {escape(section.title)}", ""]
        if section.said:
            parts += [
                f"- {escape(one.text)}" + (f" *{escape(one.null)}*" if one.null else "") for one in section.said
            ] + [""]
        for table in section.tables:
            parts += _table(table, heading=table.title != section.title)
    if document.warnings:
        parts += ["## Read with care", "", *(f"- {escape(warning)}" for warning in document.warnings), ""]
    return "\n".join(parts).rstrip() + "\n"


def _first_screen(result: Comparison) -> list[str]:
    """Verdict and reason, place, and the strip over the depth."""
    first = first_screen(result)
    rows, how = strip(depth_of(result), STRIP)
    return [
        f"**{first.outcome.upper()}: {escape(first.reason)}** (policy {escape(first.policy)})",
        "",
        *([escape(" ".join(first.place)), ""] if first.place else []),
        "```text",
        *rows,
        "```",
        "",
        *(f"{escape(line)}  " for line in how),
        "",
    ]


def _table(table: Table, *, heading: bool) -> list[str]:
    if not table.rows:
        return []
    lines = [f"### {escape(table.title)}", ""] if heading else []
    long = len(table.rows) > LONG
    if long:
        lines += ["<details>", f"<summary>{len(table.rows)} rows</summary>", ""]
    lines += [_row(table.header), _row(tuple("---" for _ in table.header), raw=True)]
    lines += [_row(row) for row in table.rows]
    lines += ["", "</details>"] if long else []
    return [*lines, "", *([escape(table.note), ""] if table.note else [])]


def _row(cells: tuple[str, ...], *, raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else escape(cell) for cell in cells) + " |"


MARKDOWN = Format("md", (".md",), "text/markdown; charset=utf-8", render_markdown)
