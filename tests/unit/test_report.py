"""Reports: complete, pure, and safe with hostile text."""

import json
import re
from html.parser import HTMLParser

import pytest

from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.report import render
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
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page), "a report loads nothing from anywhere"


def test_html_is_well_formed(comparison: Comparison) -> None:
    class Balance(HTMLParser):
        stack: list[str] = []  # noqa: RUF012
        void = frozenset({"meta", "br", "img", "hr", "input"})

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
            r'class="terminal" x="([\d.]+)"',
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
