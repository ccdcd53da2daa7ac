"""Reports: complete, pure, and safe with hostile text."""

import json
import math
import re
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from spinal.analysis.statements import statements
from spinal.documents.base import Estimate
from spinal.documents.comparison import (
    AccountContrast,
    Comparison,
    DamageSignal,
    Frame,
    Looked,
    PromptChange,
    Verdict,
)
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.report import render
from spinal.report.content import headline, reasons, sections
from spinal.report.content.works import drawn_differently, one_in
from spinal.report.formats.terminal import print_document
from tests.support.contents import DEPTH, account, content, parts, setting
from tests.support.fabricated import changed_pair, identical_pair, trace

HOSTILE = 'local:<script>alert("x")</script>|`a`&amp;'


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    made = changed_pair().compare()
    return made.model_copy(update={"candidate": made.candidate.model_copy(update={"source": HOSTILE})})


def test_json_reads_back_as_the_same_document(comparison: Comparison) -> None:
    assert Comparison.model_validate_json(render(comparison, "json")) == comparison
    one = trace("sft", 4, 8)
    assert Trace.model_validate_json(render(one, "json")) == one


def test_hostile_names_stay_text(comparison: Comparison) -> None:
    page = render(comparison, "html")
    assert page.count("<script") == 1, "none but its own"
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page), "a report loads nothing from anywhere"


def test_html_is_well_formed(comparison: Comparison) -> None:
    class Balance(HTMLParser):
        void = frozenset({"meta", "br", "img", "hr", "input", "link"})

        def __init__(self) -> None:
            super().__init__()
            self.stack: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in self.void:
                self.stack.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            """Self-closing tags of the plots need no end."""

        def handle_endtag(self, tag: str) -> None:
            assert self.stack.pop() == tag

    parser = Balance()
    parser.feed(render(comparison, "html"))
    assert parser.stack == []


def test_a_trace_shades_the_window_of_its_own_profile() -> None:
    shades = {
        fraction: re.findall(
            r'class="window" x="([\d.]+)%"',
            render(trace("sft", 10, 8, profile=MeasurementProfile(terminal_fraction=fraction)), "html"),
        )
        for fraction in (0.3, 0.7)
    }
    assert shades[0.3]
    assert all(float(early) < float(late) for early, late in zip(shades[0.3], shades[0.7], strict=True))


@pytest.mark.parametrize("format", ["json", "html", "md"])
def test_the_same_document_gives_the_same_text(comparison: Comparison, format: str) -> None:
    assert render(comparison, format) == render(comparison, format)


def test_verdict_warnings_and_every_layer_are_shown(comparison: Comparison) -> None:
    for format in ("html", "md"):
        text = render(comparison, format)
        assert comparison.verdict.outcome in text.lower()
        assert "no control checkpoint was given" in text
    layers = json.loads(render(comparison, "json"))["layers"]
    assert len(layers) == 11


def test_equal_models_are_said_to_be_equal() -> None:
    assert "every difference is exactly 0" in render(identical_pair().compare(), "md")


WORSE = "predicts text 48 times worse: +3.87 nats/token, limit 1.0"


def full() -> Comparison:
    """A comparison that has everything a report can show, under hostile names."""
    flat = np.full(DEPTH, 0.2)
    margin, kl = account({**parts(flat, 0.05, 0.5), "block 1": 1.5}, dropped=3), account(parts(flat), read_out="kl")
    contrast = AccountContrast(
        read_out="margin", prompts=61, total=Estimate(value=3.3, ci=(3.0, 3.6)), places={"block 1": Estimate(value=1.1)}
    )
    made = content(
        np.full(DEPTH, 0.1),
        settings=[setting("rope_theta", "10000.0", HOSTILE), setting("a|b", None, "2", "generation", computes=False)],
        accounts={"kl": kl, "margin": margin},
        control_accounts={"margin": account(parts(np.full(DEPTH, 0.1)))},
        noise_accounts={"kl": kl},
        account_contrasts={"margin": contrast},
        frame=Frame(changed=False, residual=0.31, gap=0.12),
        prompt_changes=tuple(
            PromptChange(
                prompt=number, category=HOSTILE, gap=0.9, nll_change=3.5, entropy_change=-0.25, top_changed=0.5,
                block_swap=None,
            )
            for number in range(41, 61)
        ),
        looked_at=(
            Looked(category="english", prompts=64, scored=40, swapped=12, accounted=60, continued=20),
            Looked(category="code", prompts=7, scored=0, swapped=0, accounted=0, continued=0),
        ),
    )  # fmt: skip
    nll = DamageSignal(
        value=math.log(48), watch=0.3, damaged=1.0, level="damaged", unit="nats/token", n=37, se=0.21, ci=(3.5, 4.2),
        fails_alone=True,
    )  # fmt: skip
    damage = made.damage.model_copy(update={"signals": made.damage.signals | {"nll_change": nll}, "level": "damaged"})
    verdict = Verdict(
        outcome="fail", policy="spinal-default/2", reasons=(WORSE, "no prompt of category code was looked at"),
        rules=made.verdict.rules,
    )  # fmt: skip
    return made.model_copy(update={"damage": damage, "verdict": verdict})


def on_terminal(document: Comparison | Trace, width: int) -> str:
    lines = StringIO()
    print_document(document, Console(file=lines, width=width))
    return lines.getvalue()


def test_the_reason_of_a_fail_comes_first_and_once() -> None:
    result = full()
    assert headline(result).startswith("Predicts text 48 times worse: +3.87 nats/token, limit 1.0. ")
    page = render(result, "html")
    assert page.index("Predicts text 48 times worse") < page.index("Read with care") < page.index("What changed")
    assert page.count("Predicts text 48 times worse") == 1
    assert page.index("No prompt of category code was looked at.") < page.index("What changed")
    passed = changed_pair().compare()
    assert passed.verdict.outcome == "pass"
    assert headline(passed).startswith("Only blocks 8-10 changed")
    assert reasons(passed)[0] == "No sure sign of damage in anything that was measured."


@pytest.mark.parametrize("format", ["html", "md"])
def test_everything_that_was_measured_is_shown(format: str) -> None:
    text = re.sub(r"<[^>]+>|\\", " ", render(full(), format)).replace("&lt;", "<").replace("&gt;", ">")
    text = re.sub(r"\s+", " ", text)
    for expected in (
        "What carries the change", "What computes something else", "What changed", "Does it still work",
        "Change of the preference margin over 64 pairs, 3 left out", "KL(reference", "share, control", "share, noise",
        "minus control (nats)", "Against the control", "rope_theta" if format == "html" else "rope _theta",
        "leaves 31%", "48 times", "alone enough", "37", "Rules of spinal-default/2",
        "does it still predict text as well", "Not looked at: code.", "41", "50%",
        "1 token in", "The document names 20.",
    ):  # fmt: skip
        assert expected in text, expected
    for one in statements(full()):
        assert re.sub(r"\s+", "", one.text)[:40] in re.sub(
            r"\s+", "", text.replace("&quot;", '"').replace("&amp;", "&")
        )


def test_the_account_that_speaks_is_shown_first() -> None:
    carries = next(one for one in sections(full()) if one.about == "carries")
    assert carries.tables[0].title.startswith("Change of the preference margin")
    assert carries.said[0].about == "margin"
    rows = {row[0]: row for row in carries.tables[0].rows}
    assert rows["block 1"][1].endswith("*")
    assert next(iter(rows)) == "embeddings"
    assert list(rows)[-3:-1] == ["read-out", "all"]


def test_hostile_settings_and_categories_stay_text() -> None:
    assert render(full(), "html").count("<script") == 1, "none but its own"
    rows = [line for line in render(full(), "md").splitlines() if line.startswith("| configuration")]
    assert len(rows) == 1
    assert len(re.findall(r"(?<!\\)\|", rows[0])) == 6, "a name must not open a cell"


def test_a_comparison_of_an_earlier_release_is_shown_whole() -> None:
    result = changed_pair().compare()
    later = (
        "accounts", "control_accounts", "noise_accounts", "account_contrasts", "settings", "frame", "unchanged_blocks",
        "statements", "prompt_changes", "looked_at", "curves",
    )  # fmt: skip
    stored = {name: value for name, value in result.model_dump(by_alias=True).items() if name not in later}
    for signal in stored["damage"]["signals"].values():
        for name in ("n", "se", "ci", "of", "fails_alone"):
            del signal[name]
    old = Comparison.model_validate(stored)
    for format in ("html", "md"):
        text = render(old, format)
        assert "Only blocks 8-10 changed; 1-7 hold the same tensors." in text
        assert "What carries the change was not measured" in text
    assert "Only blocks 8-10 changed" in on_terminal(old, 80)


def test_the_bounds_of_what_is_drawn_differently_hold_for_known_pairs() -> None:
    """Two tokens of probabilities cos^2 and sin^2 of an angle are 2 angles of Fisher-Rao distance apart."""
    generator = np.random.default_rng(0)
    for a, b in generator.uniform(0.0, np.pi / 2, (50, 2)):
        p, q = np.array([np.cos(a) ** 2, np.sin(a) ** 2]), np.array([np.cos(b) ** 2, np.sin(b) ** 2])
        least, most = drawn_differently(2 * abs(a - b))
        # 1e-12: doubles.
        assert least - 1e-12 <= 0.5 * np.abs(p - q).sum() <= most + 1e-12
    assert one_in(0.25) == "1 token in 4"
    assert one_in(0.9) == "9 tokens in 10"
