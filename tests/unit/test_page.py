"""The HTML page: what is drawn is what was measured, said truly, and nothing but the page's own is run."""

import base64
import hashlib
import re
from datetime import date
from html import unescape

import numpy as np
import pytest

from spinal.analysis.human_terms import unit_in_words
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison, DamageSignal, RuleOutcome, Verdict, Waived
from spinal.documents.policy import LimitRule, Policy
from spinal.numbers import number
from spinal.policy.decide import judged
from spinal.policy.words import sentence
from spinal.report import FORMATS, render
from spinal.report.content.gauges import NAMES, UNSURE
from spinal.report.page.axis import Axis, scale_of
from spinal.report.page.damage import drawn, farthest
from spinal.report.page.depth import figure_of_trace, figures_of
from spinal.report.page.rows import Bar, Line, bars, curves
from spinal.report.page.tables import shown
from tests.support.contents import DEPTH, account, content, parts
from tests.support.fabricated import changed_pair, identical_pair, trace
from tests.support.pages import recorded


@pytest.fixture(scope="module")
def failed() -> Comparison:
    made = recorded("fail")
    assert isinstance(made, Comparison)
    return made


def test_the_browser_is_let_run_the_style_and_the_script_of_the_page_and_nothing_else(failed: Comparison) -> None:
    page = render(failed, "html")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    policy = dict(FORMATS["html"].headers)["Content-Security-Policy"]
    for text, directive in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert " style=" not in page, "an attribute of style would not be obeyed"
    assert not re.search(r"\son[a-z]+=", page.replace(script, ""))
    # Who may frame a page is obeyed in the header alone.
    inside = policy.removesuffix("; frame-ancestors 'none'")
    assert inside != policy
    assert f'content="{inside}"'.replace("'", "&#39;") in page


def test_axes_have_round_values_few_enough_to_read() -> None:
    for zero in (True, False):
        for low in (0.0, -0.1, -1.7):
            for high in np.geomspace(0.013, 900.0, 200):
                scale = scale_of([low, float(high)], 100.0, zero=zero)
                step = scale.ticks[1] - scale.ticks[0]
                assert 2 <= len(scale.ticks) <= 6
                assert all(scale.low <= value <= scale.high for value in scale.ticks)
                # A step of 1, 2 or 5 times a power of ten; 1e-9 for rounding.
                assert min(abs(step / 10 ** np.floor(np.log10(step) + 1e-9) - factor) for factor in (1, 2, 5)) < 1e-9
                assert scale.y(high) < scale.y(low)


def test_one_value_still_has_a_scale() -> None:
    for values in ([], [0.0], [3.5], [-2.0, -2.0]):
        scale = scale_of(values, 60.0, zero=True)
        assert scale.low < scale.high
        assert scale.ticks


@pytest.mark.parametrize("blocks", [1, 2, 6, 12, 24, 32, 80, 126])
def test_everything_stands_on_one_axis_with_few_labels(blocks: int) -> None:
    axis = Axis(blocks, (max(1, blocks - 2), blocks), ("R",))
    names = axis.names()
    assert [text for _, text in names][:2] == ["E", "1"]
    assert [text for _, text in names][-2:] == [str(blocks), "R"]
    assert len(names) <= 14
    places = [x for x, _ in names]
    assert places == sorted(places)
    assert 0 < places[0] < places[-1] < 100
    assert axis.x(axis.column_of("R")) == places[-1]


def test_first_come_what_carries_what_computes_and_both_sides_own_curves(failed: Comparison) -> None:
    first, more = figures_of(failed)
    assert [row.name for row in first.rows] == [
        "Carries the change", "Computes something else", "Contraction", "Transport",
    ]  # fmt: skip
    _, _, contraction, transport = first.rows
    assert [label for _, label in contraction.key] == ["reference", "candidate"]
    for row in (contraction, transport):
        assert row.drawn.count("<polyline") == 2
    own = failed.curves["candidate"].all
    assert own.contraction[7] is not None
    assert f"candidate {own.contraction[7]:.3g}" in contraction.spoken[7]
    assert {"Function gap", "Change of contraction", "Change of transport"} <= {row.name for row in more.rows}


def test_the_saturated_first_step_is_no_part_of_the_scale(failed: Comparison) -> None:
    transport = figures_of(failed)[0].rows[-1]
    own = failed.curves["candidate"].all.transport
    assert own[1] is not None
    assert own[1] > 3.0
    assert max(float(text.replace("−", "-")) for _, text in transport.ticks) < 1.0
    assert 1 not in transport.spoken
    assert "left out of the scale: candidate 3.04" in transport.note
    step = figure_of_trace(trace("sft", 6, 8)).rows[1]
    assert step.name == "Transport"
    assert 1 not in step.spoken


def test_a_control_is_drawn_with_both_sides() -> None:
    made = recorded("pass")
    assert isinstance(made, Comparison)
    row = figures_of(made)[0].rows[-1]
    assert [label for _, label in row.key] == ["control", "reference", "candidate"]
    assert row.drawn.count("<polyline") == 3


def test_a_caption_names_what_is_drawn(failed: Comparison) -> None:
    assert failed.layers[5].d_contraction.last.value is None, "64 prompts give no fit at the last position"
    rows = {row.name: row for figure in figures_of(failed) for row in figure.rows}
    assert "positions 'all'" in rows["Change of contraction"].says
    assert "both" not in rows["Change of contraction"].says
    assert "both choices of positions" in rows["Change of transport"].says


def test_a_band_lies_where_the_interval_does() -> None:
    """Intervals of resampling are no value plus and minus: here the value stands at the upper end."""
    row = curves("x", "u", "s", Axis(2, (1, 2)), [Line("a", "one", [1.0, 1.0, 1.0], [(0.0, 1.0)] * 3)])
    assert row is not None
    (band,) = re.findall(r'class="band one" points="([^"]+)"', row.drawn)
    (line,) = re.findall(r'class="curve one" points="([^"]+)"', row.drawn)
    heights = [{point.split(",")[1] for point in part.split()} for part in (band, line)]
    assert heights[1] < heights[0]
    assert float(*heights[1]) == min(float(height) for height in heights[0]), "down is the larger number"


def test_no_line_is_drawn_over_what_is_missing() -> None:
    row = curves("x", "u", "s", Axis(4, (3, 4)), [Line("a", "candidate", [1.0, None, 2.0, 3.0, None])])
    assert row is not None
    assert row.drawn.count("<polyline") == 2
    assert curves("x", "u", "s", Axis(4, (3, 4)), [Line("a", "candidate", [None] * 5)]) is None


def test_places_that_work_against_the_change_are_told_apart_without_colour() -> None:
    row = bars("x", "u", "s", Axis(3, (3, 3), ("R",)), [Bar(0, 0.5, (0.4, 0.6)), Bar(1, -0.2, (-0.2, -0.2))])
    assert row.drawn.count("against") == 1
    assert row.drawn.count("whisker") == 1, "an interval that is a point is none"


def test_unchanged_blocks_have_a_row_of_their_own() -> None:
    made = recorded("known-place")
    assert isinstance(made, Comparison)
    row = next(row for row in figures_of(made)[0].rows if row.name == "Tensors")
    assert (row.drawn.count("cell changed"), row.drawn.count("cell same")) == (7, 17)
    assert (row.spoken[7], row.spoken[8]) == ("changed", "bit-identical")


def test_parts_of_every_read_out_are_drawn_and_the_controls_beside() -> None:
    flat = np.full(DEPTH, 0.2)
    made = content(
        np.full(DEPTH, 0.1),
        accounts={"kl": account(parts(flat), read_out="kl"), "margin": account(parts(flat, 0.05, 0.5))},
        control_accounts={"margin": account(parts(np.full(DEPTH, 0.1)))},
    )
    rows = {row.name: row for row in figures_of(made)[1].rows}
    margin = rows["What carries the preference margin"]
    # Blocks, embeddings and read-out of both.
    assert margin.drawn.count("<rect") == 2 * (DEPTH + 2)
    assert margin.drawn.count('class="bar control"') == DEPTH + 2
    assert rows["What carries KL(reference || candidate)"].drawn.count("<rect") == DEPTH + 2


def test_bars_stand_against_the_limits_worst_first(failed: Comparison) -> None:
    found = drawn(failed)
    assert [bar.mark for bar in found] == sorted((bar.mark for bar in found), key=["damaged", "watch", "none"].index)
    text = next(bar for bar in found if bar.gauge.name == "predicts text worse")
    assert text.beyond
    assert text.times == "3.5"
    assert text.gauge.number == "+3.51 [3.26, 3.77]"
    assert text.zero < text.watch < text.limit < text.left + text.width
    for bar in found:
        assert 0 <= bar.left <= bar.left + bar.width <= 100.001
        assert bar.beyond == (bar.gauge.reached is not None and bar.gauge.reached > 1.4)


@pytest.mark.parametrize("turned", [False, True])
def test_a_bar_has_the_value_and_the_unit_of_its_own_signal(failed: Comparison, turned: bool) -> None:
    """A document that a database kept has its members in another order than the panel."""
    members = list(failed.damage.signals.items())
    signals = dict(reversed(members) if turned else sorted(members))
    made = failed.model_copy(update={"damage": failed.damage.model_copy(update={"signals": signals})})
    page = unescape(re.sub(r"<[^>]+>", " ", render(made, "html"))).replace("\xa0", " ")
    for name, signal in members:
        if signal.watch is None or signal.value is None:
            continue
        bar = next(bar for bar in drawn(made) if bar.gauge.name.startswith(NAMES[name]))
        value = number(signal.value)
        assert bar.gauge.number.lstrip("+").partition(" [")[0] == value, name
        unit = unit_in_words(signal.unit)
        assert re.search(rf"{NAMES[name]} +{re.escape(unit)}\s+\+?{re.escape(value)}", page), name


def test_a_rules_own_limit_is_drawn_where_it_is_another(failed: Comparison) -> None:
    rule = RuleOutcome(
        rule="strict", outcome="fail", reasons=("predicts text worse",), path="damage.nll_change", value=3.51,
        unit="nats/token", bad="above", limit=0.05, severity="fail",
    )  # fmt: skip
    verdict = Verdict(outcome="fail", policy="acme/1", decided_by="strict", reasons=rule.reasons, rules=(rule,))
    made = failed.model_copy(update={"verdict": verdict})
    text = next(bar for bar in drawn(made) if bar.gauge.name == "predicts text worse")
    assert text.asked is not None
    assert text.zero < text.asked < text.watch
    page = render(made, "html")
    assert "Decided by rule strict, bad at 0.05 or more." in page
    assert "dotted: the limit of a rule of acme/1" in page
    assert "dotted" not in render(failed, "html")


def test_every_rule_is_told_with_value_limit_and_waiver(failed: Comparison) -> None:
    waived = RuleOutcome(
        rule="ends", outcome="pass", reasons=("no longer ends",), asks="do its answers end?", path="damage.x",
        value=-0.9, ci=(-1.0, -0.8), unit="of answers", bad="below", limit=-0.5,
        waived=Waived(reason="known <tokenizer> fault", expires=date(2027, 1, 31), would_be="fail"),
    )  # fmt: skip
    verdict = Verdict(outcome="pass", policy="acme/1", reasons=("no rule found anything",), rules=(waived,))
    page = render(failed.model_copy(update={"verdict": verdict}), "html").replace("&nbsp;", " ")
    for expected in (
        "do its answers end?", "waived until 2027-01-31", "known &lt;tokenizer&gt; fault", "−0.9 [−1, −0.8] of answers",
        "−0.5 or less", "1 rule: 1 waived", "No rule found anything.",
    ):  # fmt: skip
        assert expected in page, expected


def test_a_pass_names_what_came_nearest_to_its_limit() -> None:
    made = recorded("known-place")
    assert isinstance(made, Comparison)
    found = farthest(made)
    assert found is not None
    assert found.reached == max(bar.gauge.reached or 0.0 for bar in drawn(made))
    assert f"Nearest to its limit: {found.name}" in render(made, "html")


def test_a_policy_that_lets_damage_pass_does_not_hide_it(failed: Comparison) -> None:
    """Only a drift is asked about, and the model is wrecked: what passes is said, and what that leaves out."""
    rule = LimitRule(name="drift", value="damage.gap", bad="above", limit=3.0, severity="fail")
    made = judged(failed, Policy(name="lenient/1", rules=(rule,)))
    assert made.verdict.outcome == "pass"
    signals = failed.damage.signals
    raised = [name for name, signal in signals.items() if signal.level == "damaged" and signal.fails_alone]
    said = next(why for why in made.verdict.reasons if why.startswith("the damage panel says 'damaged' all the same"))
    assert all(sentence(name, signals[name]) in said for name in raised)
    page = render(made, "html")
    assert "Nearest to its limit" not in page
    assert "limit all the same: " in page
    # The default policy says it by failing.
    assert not any("all the same" in why for why in judged(failed).verdict.reasons)


def test_what_is_far_and_not_sure_is_not_said_to_be_within_limits(failed: Comparison) -> None:
    unsure = DamageSignal(
        value=-2.5, ci=(-6.0, 1.0), watch=-0.5, damaged=-2.0, level="none", unit="nats", fails_alone=True
    )
    signals = failed.damage.signals | {"margin_change": unsure}
    made = failed.model_copy(update={"damage": failed.damage.model_copy(update={"signals": signals})})
    bar = next(bar for bar in drawn(made) if bar.gauge.name == NAMES["margin_change"])
    assert (bar.gauge.level, bar.mark, bar.times) == (UNSURE, "none", "")
    assert UNSURE in render(made, "html")
    assert UNSURE in render(made, "md")


def test_what_has_not_moved_is_near_no_limit() -> None:
    same = identical_pair().compare()
    assert farthest(same) is None
    assert "Nearest to its limit" not in render(same, "html")


def test_a_comparison_without_curves_is_shown_with_what_it_has(failed: Comparison) -> None:
    old = failed.model_copy(update={"curves": {}, "accounts": {}, "statements": ()})
    assert [row.name for row in figures_of(old)[0].rows] == ["Computes something else"]
    page = render(old, "html")
    assert "Computes something else" in page
    assert "Change of transport" in page
    bare = changed_pair().compare()
    nothing = bare.model_copy(
        update={
            "curves": {},
            "layers": tuple(
                layer.model_copy(update={"block_swap": Estimate(value=None, reason="not_measured")})
                for layer in bare.layers
            ),
        }
    )
    assert "<h1>" in render(nothing, "html")


def test_no_notation_of_formulas_is_left_in_the_page(failed: Comparison) -> None:
    page = re.sub(r"<(style|script)>.*?</\1>", "", render(failed, "html"), flags=re.DOTALL)
    assert "||" not in page
    assert "`" not in page
    assert not re.search(r"\de[+-]\d\d", page)


def test_numbers_stand_to_the_right_and_texts_may_break(failed: Comparison) -> None:
    from spinal.report.content import sections

    for section in sections(failed):
        for table in section.tables:
            made = shown(table)
            for row in made.rows:
                for head, cell in zip(made.header, row, strict=True):
                    assert (cell.style == "n") == (head.style == "n")
                    assert cell.style != "t" or len(cell.text) > 34
    layers = next(table for one in sections(failed) for table in one.tables if table.title == "Layer by layer")
    assert shown(layers).columns == tuple(range(len(failed.layers)))


def test_a_plot_stays_small(failed: Comparison) -> None:
    for figure in figures_of(failed):
        for row in figure.rows:
            assert len(row.drawn) < 6 * 1024, row.name
