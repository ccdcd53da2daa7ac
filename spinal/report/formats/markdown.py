"""Reports as GitHub-flavoured Markdown."""

import re

from spinal.documents.comparison import Comparison
from spinal.documents.series import Series
from spinal.report.content import Table, sections, title
from spinal.report.content.address import is_address
from spinal.report.content.depth import depth_of
from spinal.report.content.first import findings_table, first_screen, uncovered
from spinal.report.content.gauges import damage_summary
from spinal.report.content.lead import sentence
from spinal.report.content.series.lead import began, extent, not_looked_at, word
from spinal.report.formats.format import ANYBODY, Format, Reader
from spinal.report.formats.strip import strip
from spinal.report.reported import Reported
from spinal.text import visible

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~&$])")

LONG = 30
"""Rows of a table from which on it is folded."""
STRIP = 100
"""Columns of the strip over the depth."""


def escape(text: str) -> str:
    """Text that Markdown shows as it is: names and labels come from outside."""
    return SPECIAL.sub(r"\\\1", visible(" ".join(text.split())))


def render_markdown(document: Reported, reader: Reader = ANYBODY) -> str:
    """The first screen, then headings, lists and tables; long tables are folded. Checkpoints of a training run lead to
    their own reports where ``reader`` has links to them."""
    parts = [f"# {escape(title(document))}", ""]
    if isinstance(document, Comparison):
        parts += _first_screen(document)
        parts += _table(damage_summary(document), heading=True)
        parts += _table(findings_table(document), heading=True)
        others = uncovered(document)
        parts += (
            ["### What the verdict does not cover", "", *(f"- {escape(why)}" for why in others), ""] if others else []
        )
    if isinstance(document, Series):
        parts += _of_series(document)
    for section in sections(document, reader.links):
        parts += [f"## {escape(section.title)}", ""]
        if section.said:
            parts += [
                f"- {escape(one.text)}" + (f" *{escape(one.null)}*" if one.null else "") for one in section.said
            ] + [""]
        for table in section.tables:
            parts += _table(table, heading=table.title != section.title)
    if not isinstance(document, Series) and document.warnings:
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


def _of_series(series: Series) -> list[str]:
    """Status with its reason, between which steps it began, the other sentences, and what was not looked at."""
    why = tuple(sentence(reason) for reason in series.reasons)
    lines = [f"**{word(series.status).upper()}: {escape(why[0] if why else '')}** (policy {escape(series.policy)})", ""]
    lines += [f"{escape(began(series) or f'Nothing alarmed over {extent(series)}.')}", ""]
    lines += [*(f"- {escape(one)}" for one in why[1:]), ""] if why[1:] else []
    left = not_looked_at(series)
    lines += ["## What was not looked at", "", *(f"- {escape(sentence(one))}" for one in left), ""] if left else []
    return lines


def _table(table: Table, *, heading: bool) -> list[str]:
    if not table.rows:
        return []
    lines = [f"### {escape(table.title)}", ""] if heading else []
    long = len(table.rows) > LONG
    if long:
        lines += ["<details>", f"<summary>{len(table.rows)} rows</summary>", ""]
    lines += [_row(table.header), _row(tuple("---" for _ in table.header), raw=True)]
    links = table.links or (None,) * len(table.rows)
    lines += [_row(row, link=link) for row, link in zip(table.rows, links, strict=True)]
    lines += ["", "</details>"] if long else []
    return [*lines, "", *([escape(table.note), ""] if table.note else [])]


def _row(cells: tuple[str, ...], *, raw: bool = False, link: str | None = None) -> str:
    told = [cell if raw else escape(cell) for cell in cells]
    if link is not None and is_address(link):
        told[0] = f"[{told[0]}](<{link}>)"
    return "| " + " | ".join(told) + " |"


MARKDOWN = Format("md", (".md",), "text/markdown; charset=utf-8", render_markdown, render_for=render_markdown)
