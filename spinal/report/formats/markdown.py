"""Reports as GitHub-flavoured Markdown."""

import re

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, headline, reasons, sections, title
from spinal.report.formats.format import Format
from spinal.text import visible

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")


def escape(text: str) -> str:
    """Text that Markdown shows as it is: names and labels come from outside."""
    return SPECIAL.sub(r"\\\1", visible(" ".join(text.split())))


def render_markdown(document: Trace | Comparison) -> str:
    """Headings, lists and tables."""
    parts = [f"# {escape(title(document))}", ""]
    if isinstance(document, Comparison):
        parts += [f"**Verdict: {document.verdict.outcome}** (policy {escape(document.verdict.policy)})", ""]
        parts += [escape(headline(document)), ""]
        # The lead begins with the first reason, but for a pass.
        others = reasons(document)[0 if document.verdict.outcome == "pass" else 1 :]
        parts += [*(f"- {escape(reason)}" for reason in others), ""] if others else []
    if document.warnings:
        parts += ["## Read this first", "", *(f"- {escape(warning)}" for warning in document.warnings), ""]
    for section in sections(document):
        parts += [f"## {escape(section.title)}", ""]
        if section.said:
            parts += [
                f"- {escape(one.text)}" + (f" *{escape(one.null)}*" if one.null else "") for one in section.said
            ] + [""]
        for table in section.tables:
            parts += _table(table, heading=table.title != section.title)
    return "\n".join(parts).rstrip() + "\n"


def _table(table: Table, *, heading: bool) -> list[str]:
    lines = [f"### {escape(table.title)}", ""] if heading else []
    lines += [_row(table.header), _row(tuple("---" for _ in table.header), raw=True)]
    lines += [_row(row) for row in table.rows]
    return [*lines, "", *([escape(table.note), ""] if table.note else [])]


def _row(cells: tuple[str, ...], *, raw: bool = False) -> str:
    return "| " + " | ".join(cell if raw else escape(cell) for cell in cells) + " |"


MARKDOWN = Format("md", (".md",), "text/markdown; charset=utf-8", render_markdown)
