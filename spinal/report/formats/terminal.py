"""Reports on a terminal: the verdict with its reason first, then where the change sits, then tables that fit."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Section, Table, sections, title
from spinal.report.content.depth import depth_of
from spinal.report.content.first import findings, first_screen, limit_of, question, told, uncovered, value_of
from spinal.report.content.gauges import LEVELS, UNSURE, Gauge, gauges
from spinal.report.content.lead import sentence
from spinal.report.content.origin import about_trace
from spinal.report.formats.screen import Page
from spinal.report.formats.strip import strip
from spinal.report.formats.wrapping import wrapped

COLOURS = {"pass": "green", "warn": "yellow", "fail": "red", "inconclusive": "magenta"}
ROWS = {"carries": "cyan", "computes": "magenta"}
SHORT = {LEVELS["none"]: "ok", LEVELS["watch"]: "look", LEVELS["damaged"]: "over", UNSURE: "error"}
BAR = 14
"""Columns of a bar from no change to the limit."""


def print_document(document: Trace | Comparison, console: Console, *, brief: bool = False) -> None:
    """The report as lines of the console's width; ``brief``: nothing beyond verdict, reason, place and strip."""
    page = Page(console)
    page.say(title(document), "bold")
    if isinstance(document, Trace):
        page.say(about_trace(document))
        if not brief:
            _tables(page, sections(document))
    else:
        _first_screen(page, document, brief=brief)
        if not brief:
            _limits(page, document)
            _found(page, document)
            _tables(page, sections(document))
    if not brief:
        _warnings(page, document.warnings)
        if isinstance(document, Comparison):
            page.blank()
            _verdict(page, document)


def _verdict(page: Page, result: Comparison) -> None:
    first = first_screen(result)
    lines = wrapped(page.clean(f"{first.outcome.upper()}: {first.reason}"), page.width)
    start = Text(lines[0])
    start.stylize(f"bold {COLOURS[first.outcome]}", 0, len(first.outcome))
    page.line(start)
    for line in lines[1:]:
        page.line(line)


def _first_screen(page: Page, result: Comparison, *, brief: bool) -> None:
    """In brief without empty lines: what one looks at in passing."""
    _verdict(page, result)
    where = first_screen(result).place
    rows, how = strip(depth_of(result), page.width, plain=page.plain)
    if not brief:
        page.blank()
    for one in [" ".join(where)] if brief else where:
        page.say(one)
    if not brief:
        page.blank()
    for row in rows:
        page.line(row, ROWS.get(row.split()[0], ""))
    for said in [" ".join(how)] if brief else how:
        page.say(said, "dim")


def _limits(page: Page, result: Comparison) -> None:
    """Damage as bars from no change to the limit."""
    found = gauges(result)
    if not found:
        return
    page.heading("Damage against its limits")
    rows = tuple(
        (one.name, _bar(one, plain=page.plain), one.number, one.unit, one.limit, SHORT.get(one.level, one.level))
        for one in found
    )
    header = ("signal", "0 to the limit", "value", "of what", "limit", "level")
    watch = "|" if page.plain else "┊"
    page.table(
        Table(
            "", header, rows, f"{watch} worth a look. Level: ok, worth a look, over the limit.", narrow=(0, 5, 2, 1, 4)
        )
    )


def _bar(gauge: Gauge, *, plain: bool) -> str:
    """A bar that is full at the limit, with a mark where the value is worth a look."""
    full, empty, mark, beyond = ("#", ".", "|", ">") if plain else ("█", "░", "┊", "▶")
    reached = gauge.reached
    if reached is None:
        return ""
    filled = min(BAR, max(0, round(BAR * min(reached, 1.0))))
    if reached > 0.0 and filled == 0 and round(100 * reached):
        filled = 1
    cells = [full if at < filled else empty for at in range(BAR)]
    watch = min(BAR - 1, int(BAR * gauge.watch))
    if filled <= watch and gauge.watch < 1.0:
        cells[watch] = mark
    if reached > 1.0:
        cells[-1] = beyond
    return "".join(cells)


def _found(page: Page, result: Comparison) -> None:
    """Rules that found something, each with what it asks, its value against its limit, and its reasons."""
    found = findings(result)
    if found:
        page.heading(f"Rules that found something ({result.verdict.policy})")
    for rule in found:
        start = Text(f"{rule.outcome if rule.waived is None else 'waived'} ")
        start.stylize(f"bold {COLOURS[rule.outcome]}")
        lines = wrapped(page.clean(question(rule)), page.width, " " * len(start), "  ")
        page.line(start + Text(lines[0].lstrip() if lines else ""))
        for line in lines[1:]:
            page.line(line)
        if rule.waived is not None:
            page.say(told(rule), indent="  ")
        if rule.value is not None and not any("limit " in why for why in rule.reasons):
            # Most reasons tell both.
            page.say(f"{value_of(rule)}; bad at {limit_of(rule)}", indent="  ")
        for why in rule.reasons:
            page.say(sentence(why), indent="  - ", hanging="    ")
    others = uncovered(result)
    if others:
        page.heading("What the verdict does not cover" if result.verdict.rules else "Further reasons")
        for why in others:
            page.say(why, indent="- ", hanging="  ")


def _tables(page: Page, found: Sequence[Section]) -> None:
    for section in found:
        if section.about == "provenance":
            continue
        tables = [table for table in section.tables if not table.told_before]
        if not (tables or section.said):
            continue
        page.heading(section.title)
        for one in section.said:
            page.say(one.text, indent="- ", hanging="  ")
            if one.null:
                page.say(one.null, "dim", "  ")
        for table in tables:
            if table.title != section.title:
                page.blank()
                page.say(table.title, "underline")
            page.table(table)


def _warnings(page: Page, warnings: Sequence[str]) -> None:
    if not warnings:
        return
    page.heading("Read with care")
    for warning in warnings:
        page.say(warning, indent="! ", hanging="  ")
