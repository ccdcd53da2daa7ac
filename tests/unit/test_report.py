"""Reports: complete, pure, and safe with hostile text."""

import json
import re
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from spinal.analysis.locators import LOCATORS
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.report import render
from spinal.report.content import headline, localization_table
from spinal.report.formats import FORMATS, formats_by_suffix
from tests.support.fabricated import PROFILE, changed_pair, identical_pair, trace

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


@pytest.mark.parametrize("format", FORMATS)
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


@pytest.mark.parametrize(
    ("fraction", "words"),
    [
        (0.7, "blocks 7-10 (the terminal window) hold 0.75 of it"),
        (0.5, "blocks 5-10 (the terminal window) hold 1 of it"),
        (1.0, "block 10 (the terminal window) holds 0.25 of it"),
    ],
)
def test_the_headline_names_the_blocks_of_the_terminal_window(fraction: float, words: str) -> None:
    pair = changed_pair(first=6 if fraction < 1.0 else 7)
    profile = PROFILE.model_copy(update={"terminal_fraction": fraction})
    made = replace(pair, profile=profile, evidence=replace(pair.evidence, block_swap=_flat_from(pair)))
    assert words in headline(made.compare())


def test_the_plots_of_a_trace_shade_the_terminal_window_of_its_profile() -> None:
    one, other = (
        trace("sft", 10, 8, profile=PROFILE.model_copy(update={"terminal_fraction": fraction}))
        for fraction in (0.7, 0.5)
    )
    shaded = [re.findall(r'<rect class="terminal"[^>]*>', render(document, "html")) for document in (one, other)]
    assert shaded[0]
    assert shaded[0] != shaded[1]


def test_profiles_are_shown_by_their_labels_in_the_order_of_the_locators(comparison: Comparison) -> None:
    turned = comparison.model_copy(update={"localization": dict(reversed(comparison.localization.items()))})
    rows = [row[0] for row in localization_table(turned).rows]
    assert rows == [locator.label for locator in LOCATORS.values()]
    assert len(rows) == 6


def test_a_profile_of_another_release_is_read_and_shown_by_its_name(comparison: Comparison) -> None:
    document = json.loads(render(comparison, "json"))
    document["localization"]["of_tomorrow"] = document["localization"].pop("function")
    read = Comparison.model_validate(document)
    assert [row[0] for row in localization_table(read).rows][-2:] == [LOCATORS["d_transport"].label, "of_tomorrow"]
    document["localization"]["Of Tomorrow"] = document["localization"]["weights"]
    with pytest.raises(ValidationError, match="localization"):
        Comparison.model_validate(document)


def test_every_suffix_belongs_to_one_format() -> None:
    named = [suffix for form in FORMATS.values() for suffix in form.suffixes]
    assert sorted(formats_by_suffix()) == sorted(named)
    assert [form.name for form in FORMATS.values()] == list(FORMATS)
    assert all(suffix.startswith(".") for suffix in named)
