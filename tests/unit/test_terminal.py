"""The report on a terminal: verdict first, lines that fit, numbers whole, nothing that the terminal obeys."""

import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from spinal.analysis.statements import statements
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report.content import Table, reasons
from spinal.report.formats.columns import drawn
from spinal.report.formats.terminal import print_document
from tests.support.contents import account, content, parts
from tests.support.fabricated import changed_pair, trace
from tests.unit.test_first_screen import deep, judged_by_rules
from tests.unit.test_report import full

WIDTHS = (80, 120, 200)


def shown(document: Comparison | Trace, width: int, *, brief: bool = False, encoding: str = "utf-8") -> str:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_document(document, Console(file=written, width=width, force_terminal=False), brief=brief)
    written.flush()
    return written.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def deep_everywhere() -> Comparison:
    """80 blocks that all changed."""
    swap = np.linspace(0.1, 0.4, 80)
    return content(swap, accounts={"kl": account(parts(swap, 0.1, 0.2), read_out="kl")})


MADE: list[Callable[[], Comparison | Trace]] = [
    full, deep, deep_everywhere, judged_by_rules, lambda: changed_pair().compare(), lambda: trace("sft", 24, 8),
]  # fmt: skip


@pytest.mark.parametrize("brief", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("made", MADE)
def test_no_line_is_wider_than_the_terminal(made: Callable[[], Comparison | Trace], width: int, brief: bool) -> None:
    lines = shown(made(), width, brief=brief).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("made", [full, deep_everywhere, judged_by_rules])
def test_intervals_are_never_broken_over_lines(made: Callable[[], Comparison], width: int) -> None:
    text = shown(made(), width)
    found = re.findall(r"\[[-−+\d][^\]]*\]", text)
    assert len(found) > 20
    assert not any("\n" in one for one in found)
    # Whatever opens a bracket before a number closes it on its line.
    assert not re.search(r"\[[-−+]?\d[^\]\n]*\n", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_are_whole_and_stand_where_the_table_has_them(width: int) -> None:
    words = "a remark of several words that has to be broken"
    table = Table("t", ("name", "value", "why"), tuple((f"row {n}", f"{n * 12345.678:.3f} [{n}.25, {n}.75]", words)
                                                         for n in range(9)), narrow=(0, 1))  # fmt: skip
    text = "\n".join(drawn(table, width))
    for row in table.rows:
        assert row[1] in text
        assert row[0] in text


def test_the_order_is_verdict_place_strip_limits_rules_tables() -> None:
    text = shown(judged_by_rules(), 80)
    first = [
        text.index(part)
        for part in (
            "FAIL: Predicts code 20 times worse.", "Of all places", "carries ", "block    E", "Damage against its",
            "Rules that found something", "fail does it still write code?", "waived are answers as long?",
            "What changed", "Prompts that moved most",
        )
    ]  # fmt: skip
    assert first == sorted(first)
    assert text.splitlines()[1].startswith("FAIL: ")
    assert text.rstrip().splitlines()[-1].startswith("FAIL: "), "where the reader of a long report stands"
    assert "3 [2.5, 3.5] nats a token; bad at 1 or more" in text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("made", [full, judged_by_rules, lambda: changed_pair().compare()])
def test_nothing_that_a_verdict_or_a_statement_says_is_lost(made: Callable[[], Comparison], width: int) -> None:
    result = made()
    text = squeezed(shown(result, width))
    for one in statements(result):
        assert squeezed(one.text) in text
        assert squeezed(one.null or "") in text
    for why in reasons(result):
        assert squeezed(why) in text
    assert all(squeezed(warning) in text for warning in result.warnings)


def test_columns_that_do_not_fit_are_left_out_with_a_word() -> None:
    narrow, wide = shown(full(), 80), shown(full(), 200)
    assert re.search(r"Left out at this\s+width: \w", narrow)
    assert "Left out at this width" not in wide


@pytest.mark.parametrize("made", MADE[:5])
def test_in_brief_there_is_the_verdict_the_place_and_the_strip(made: Callable[[], Comparison]) -> None:
    text = shown(made(), 120, brief=True)
    lines = text.splitlines()
    assert len(lines) <= 15
    assert lines[1].startswith(made().verdict.outcome.upper())
    assert any(line.startswith("computes") for line in lines)
    assert any(line.startswith("block ") for line in lines)
    assert "Damage" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_a_deep_model_folds_the_layers_that_tell_least(width: int) -> None:
    text = shown(deep_everywhere(), width)
    # Block swap rises with the depth, so the first blocks are the quiet ones.
    assert "... embeddings to block 64: 65 quieter rows" in text
    assert "... layer 0 to layer 64: 65 quieter rows" in text
    assert re.search(r"\n *block 80 ", text)
    assert text.count("\n") < 220
    assert "quieter" not in shown(full(), width)


def test_where_only_ascii_can_be_shown_all_is_ascii() -> None:
    for made in (full, deep, judged_by_rules):
        text = shown(made(), 80, encoding="ascii")
        assert text.isascii()
        assert "1 is the least and 9 the most" in text
        assert re.search(r"carries  .? ?[1-9.]{24,}", text)
        assert max(map(len, text.splitlines())) <= 80


def test_an_encoding_without_block_characters_gets_the_plain_strip() -> None:
    assert "1 is the least" in re.sub(r"\s+", " ", shown(full(), 80, encoding="iso-8859-1"))


@pytest.mark.parametrize("name", ["\x1b[2K\x1b[31mw", "a\u202eb", "[bold]x[/bold]", "日本語の名前" * 20, "line\nbreak"])
def test_hostile_names_are_seen_and_obeyed_in_nothing(name: str) -> None:
    made = full()
    hostile = made.model_copy(update={"candidate": made.candidate.model_copy(update={"source": name})})
    for width in WIDTHS:
        text = shown(hostile, width)
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert max(map(cell_len, text.splitlines())) <= width
        assert squeezed(name.encode("unicode_escape").decode() if not name.isprintable() else name) in squeezed(text)


def test_colour_is_never_the_only_sign() -> None:
    written = io.StringIO()
    print_document(full(), Console(file=written, width=80, force_terminal=True, color_system="truecolor"))
    coloured = written.getvalue()
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == shown(full(), 80)
