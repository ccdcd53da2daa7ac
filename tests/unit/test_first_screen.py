"""What every report begins with, in Markdown and as rows of characters: verdict, reason, place, strip, limits."""

import re
from typing import Any

import numpy as np
import pytest

from spinal.documents.comparison import Comparison, RuleOutcome, Verdict, Waived
from spinal.report.content.depth import depth_of, legend
from spinal.report.content.gauges import gauges
from spinal.report.formats.markdown import render_markdown
from spinal.report.formats.strip import ASCII, strip
from spinal.report.formats.wrapping import wrapped
from tests.support.contents import account, content, parts
from tests.support.fabricated import identical_pair
from tests.unit.test_report import HOSTILE, full

DEEP = 80


def deep(**members: Any) -> Comparison:
    """80 blocks, of which 21 to 40 changed and the others are the same."""
    swap = np.zeros(DEEP)
    swap[20:40] = np.linspace(0.1, 0.4, 20)
    same = [block for block in range(1, DEEP + 1) if swap[block - 1] == 0.0]
    places = parts(swap)
    held = [place for place, value in places.items() if value == 0.0]
    return content(swap, unchanged=same, accounts={"margin": account(places, identical=held)}, **members)


def judged_by_rules() -> Comparison:
    """A fail under a policy with a waived finding, under hostile names."""
    rules = (
        RuleOutcome(rule="language", outcome="pass", reasons=(), asks="does it still know the language?"),
        RuleOutcome(
            rule="code", outcome="fail", reasons=("predicts code 20 times worse",), asks="does it still write code?",
            path="categories.code.nll_change", of=HOSTILE, value=3.0, ci=(2.5, 3.5), unit="nats/token", bad="above",
            limit=1.0, severity="fail",
        ),
        RuleOutcome(
            rule="length", outcome="pass", reasons=("answers are longer",), asks="are answers as long?", value=4.0,
            bad="above", limit=3.0,
            waived=Waived(reason="known|`since`\nMay", expires="2027-01-31", would_be="warn"),
        ),
    )  # fmt: skip
    verdict = Verdict(
        outcome="fail", policy="acme/3", decided_by="code", reasons=("predicts code 20 times worse",), rules=rules
    )
    return full().model_copy(update={"verdict": verdict})


def tables(text: str) -> list[list[str]]:
    """Every table of a Markdown text, as its lines."""
    found = re.findall(r"(?:^\|.*\n)+", text + "\n", flags=re.MULTILINE)
    return [table.splitlines() for table in found]


def cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line)) - 1


@pytest.mark.parametrize("made", [full, judged_by_rules, deep])
def test_markdown_tables_are_whole_under_any_name(made: Any) -> None:
    text = render_markdown(made())
    found = tables(text)
    assert found
    for table in found:
        assert re.fullmatch(r"\|( --- \|)+", table[1])
        assert {cells(line) for line in table} == {cells(table[0])}
    assert not re.search(r"(?<!\\)<script", text)
    assert "`a`" not in re.sub(r"\\.", "", text)


def test_markdown_says_the_verdict_the_place_and_the_strip_before_any_table() -> None:
    text = render_markdown(judged_by_rules())
    found = [
        text.index(part)
        for part in ("**FAIL: Predicts code 20 times worse.**", "Of all places", "```text\ncarries", "| --- |")
    ]
    assert found == sorted(found)


def test_markdown_names_the_rule_with_value_limit_and_waiver() -> None:
    rows = next(table for table in tables(render_markdown(judged_by_rules())) if "outcome" in table[0])
    assert len(rows) == 4, "a rule that found nothing has no row"
    assert "| fail | 3 \\[2.5, 3.5\\] nats a token | 1 or more | Predicts code 20 times worse. |" in rows[2]
    assert "waived until 2027-01-31 (warn): known\\|\\`since\\`" in rows[3]


def test_a_report_of_eighty_blocks_fits_a_step_summary() -> None:
    made = deep()
    report = render_markdown(made)
    assert len(report.encode()) < 200_000
    assert report.count("<details>") == report.count("</details>") > 0
    assert re.search(r"</summary>\n\n\| ", report), "a table in details needs an empty line before it"


@pytest.mark.parametrize("width", [30, 80, 120, 200])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("made", [full, deep])
def test_a_strip_fits_and_shows_what_is_the_same(width: int, plain: bool, made: Any) -> None:
    depth = depth_of(made())
    rows, how = strip(depth, width, plain=plain)
    assert [row.split()[0] for row in rows] == ["carries", "computes", "block"]
    assert max(map(len, rows)) <= width
    if plain:
        assert all(row.isascii() for row in rows)
    same = "." if plain else "·"
    assert (same in rows[1]) == bool(depth.same)
    assert ("the same on both sides" in how[-1]) == bool(depth.same)
    assert ("the largest of" in how[-1]) == (depth.blocks > width - 15)
    assert ("=" if plain else "━") in rows[2], "the last third is marked without colour"


def test_a_strip_is_as_high_as_the_values_are() -> None:
    rows, _ = strip(depth_of(deep()), 200, plain=True)
    drawn = rows[1].removeprefix("computes").strip()[::2]
    assert drawn[:20] == ASCII.same * 20
    assert drawn[39] == "9"
    assert list(drawn[20:40]) == sorted(drawn[20:40])
    assert drawn[40:] == ASCII.same * 40


def test_what_works_against_the_change_is_marked() -> None:
    made = content(np.full(4, 0.2), accounts={"margin": account(parts([1.0, -0.5, 0.6, 0.4]))})
    rows, how = strip(depth_of(made), 80, plain=True)
    assert re.search(r"9+-+\d", rows[0])
    assert "- against the change" in how[-1]


def test_where_nothing_computes_something_else_no_block_is_named() -> None:
    assert "(0 everywhere)" in " ".join(legend(depth_of(identical_pair().compare())))


def test_a_strip_without_weights_says_what_was_not_measured() -> None:
    made = content(reason="checkpoint_not_at_hand")
    bare = tuple(
        layer.model_copy(update={"block_swap": layer.block_swap.model_copy(update={"value": None, "reason": "absent"})})
        for layer in made.layers
    )
    rows, how = strip(depth_of(made.model_copy(update={"layers": bare})), 80)
    assert len(rows) == 1
    assert "What carries the change: not measured." in how[0]
    assert "What computes something else: not measured." in how[0]


def test_gauges_are_full_at_the_limit_and_empty_without_a_change() -> None:
    found = {gauge.name: gauge for gauge in gauges(full())}
    worse = found["predicts text worse"]
    assert worse.reached is not None
    # ln 48 nats against a limit of 1.
    assert worse.reached == pytest.approx(np.log(48))
    assert worse.watch == pytest.approx(0.3)
    assert (worse.number, worse.unit) == ("+3.87 [3.5, 4.2]", "nats a token")
    assert all(0.0 < gauge.watch <= 1.0 for gauge in found.values())


def test_gauges_are_in_the_order_of_the_panel_however_a_database_kept_them() -> None:
    made = full()
    signals = dict(sorted(made.damage.signals.items(), key=lambda item: (len(item[0]), item[0])))
    assert list(signals) != list(made.damage.signals)
    mixed = made.model_copy(update={"damage": made.damage.model_copy(update={"signals": signals})})
    assert [gauge.name for gauge in gauges(mixed)] == [gauge.name for gauge in gauges(made)]
    assert gauges(mixed)[0].name == "predicts text worse"


def test_lines_break_between_words_and_never_inside_an_interval() -> None:
    text = "carries 45% [42.0, 49.0] of it, " * 8 + "x" * 50
    for width in (24, 33, 47):
        lines = wrapped(text, width, "- ", "  ")
        assert max(map(len, lines)) <= width
        assert all(line.count("[") == line.count("]") for line in lines)
        assert "".join("".join(lines).split()) == "-" + "".join(text.split())
