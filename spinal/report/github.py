"""What a step of GitHub Actions says: its summary, and annotations (``docs/pipelines.md`` ("GitHub")). Pure text."""

from collections.abc import Mapping, Sequence

from spinal.documents.comparison import Outcome
from spinal.documents.trace import Trace
from spinal.report.content import title
from spinal.report.content.cases import Case, cases, judgement, pair, short, worst_first
from spinal.report.formats.format import Problem, Reader
from spinal.report.formats.markdown import escape, render_markdown
from spinal.report.reported import Judged, Reported

LARGEST = 190_000
"""Bytes that one summary takes: GitHub refuses the whole file of a step from 1 MiB on, whoever wrote the rest."""
MOST_ANNOTATIONS = 10
"""GitHub shows ten of each kind for a step and drops the rest."""
LONGEST_MESSAGE = 1000
MOST_ROWS = 100
LONGEST_CELL = 300
LEVELS: dict[Outcome, str] = {"fail": "error", "inconclusive": "error", "warn": "warning", "pass": "notice"}
CUT = "*The rest of the report is left out: it is too long for a step summary.*"
ENDS = "\n</details>\n"


def summary(document: Reported, reader: Reader, room: int = LARGEST) -> str:
    """Verdict, reason and rules, then the whole report, folded; in at most ``room`` bytes, if need be empty."""
    lines = [f"## {escape(short(title(document), LONGEST_CELL))}", ""]
    if not isinstance(document, Trace):
        lines += _verdict(document)
    lines += [f"- [{escape(short(label, LONGEST_CELL))}](<{address}>)" for label, address in reader.links.items()]
    head = "\n".join(lines).rstrip() + "\n"
    opening = "\n<details><summary>Whole report</summary>\n\n"
    body = render_markdown(document, reader)
    whole = f"{head}{opening}{body}{ENDS}"
    if _size(whole) <= room:
        return whole
    left = room - _size(f"{head}{opening}\n{CUT}\n{ENDS}")
    if left > 0:
        return f"{head}{opening}{_cut(body, left)}\n{CUT}\n{ENDS}"
    return _cut(head, room)


def failure_summary(problem: Problem, subject: str) -> str:
    """That nothing was judged, why, and what to do next."""
    told = [f"## Not evaluated: {escape(short(subject, LONGEST_CELL))}", "", f"**Error**: {escape(_detail(problem))}"]
    if problem.get("hint"):
        told += ["", f"Next: {escape(short(str(problem['hint']), LONGEST_MESSAGE))}"]
    return "\n".join([*told, ""])


def annotations(document: Judged, reader: Reader) -> list[str]:
    """Workflow commands for what was found, the worst first, at most ten; waived findings are notices."""
    found = worst_first(cases(document))
    shown = found if len(found) <= MOST_ANNOTATIONS else found[: MOST_ANNOTATIONS - 1]
    lines = [
        _command(_level(one, reader), f"{one.worth}: {one.name}", f"{pair(document)}: {_told(one)}") for one in shown
    ]
    if len(shown) < len(found):
        rest = found[len(shown) :]
        lines.append(_command(_level(rest[0], reader), f"{len(rest)} more findings", "see the step summary"))
    return lines


def failure_annotation(problem: Problem, subject: str) -> str:
    """The workflow command that says that nothing was judged."""
    return _command("error", "not evaluated", f"{short(subject, LONGEST_CELL)}: {_detail(problem)}")


def _verdict(document: Judged) -> list[str]:
    whole = judgement(document)
    found = cases(document)
    reason = short("; ".join(whole.reasons[:1]), LONGEST_MESSAGE)
    lines = [f"**{whole.word.upper()}**: {escape(reason)}", ""]
    decided = (
        f", decided by {'signal' if whole.kind == 'series' else 'rule'} {escape(short(whole.decided_by, LONGEST_CELL))}"
        if whole.decided_by
        else ""
    )
    lines += [f"Policy {escape(short(whole.policy, LONGEST_CELL))}{decided}.", ""]
    named = {one.name for one in worst_first(found)}
    ordered = [*worst_first(found), *(one for one in found if one.name not in named)]
    rows = [_row(one) for one in ordered[:MOST_ROWS]]
    lines += [
        f"| {'asked' if whole.kind == 'series' else 'rule'} | found | value | interval | limit | reason |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    if len(ordered) > MOST_ROWS:
        lines += [f"{len(ordered) - MOST_ROWS} more stand in the report.", ""]
    return lines


def _row(one: Case) -> str:
    unit = one.numbers.get("unit", "")
    numbers: Mapping[str, str] = one.numbers
    value = f"{numbers['value']} {unit}".strip() if "value" in numbers else ""
    cells: Sequence[str] = (
        one.name,
        one.outcome if one.waived is None else f"waived ({one.worth})",
        value,
        numbers.get("interval", ""),
        numbers.get("limit", ""),
        _told(one) if one.worth != "pass" else "",
    )
    return "| " + " | ".join(escape(short(cell, LONGEST_CELL)) for cell in cells) + " |"


def _told(one: Case) -> str:
    return one.message if one.waived is None else f"waived until {one.waived[1]}: {one.waived[0]} ({one.message})"


def _level(one: Case, reader: Reader) -> str:
    if one.waived is not None:
        return "notice"
    return "error" if one.fails(reader.fail_on) else LEVELS[one.outcome]


def _command(level: str, titled: str, message: str) -> str:
    """One command on one line: GitHub reads what follows ``::`` as data, with these characters written out."""
    data = _escaped(short(message, LONGEST_MESSAGE))
    named = _escaped(short(titled, LONGEST_CELL)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={named}::{data}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _detail(problem: Problem) -> str:
    return short(str(problem.get("detail") or problem.get("title") or "no verdict"), LONGEST_MESSAGE)


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _cut(text: str, room: int) -> str:
    """Whole lines of it in at most so many bytes."""
    if _size(text) <= room:
        return text
    kept = text.encode("utf-8", "replace")[: max(room, 0)].decode("utf-8", "ignore")
    return kept[: kept.rfind("\n") + 1]
