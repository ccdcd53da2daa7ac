"""Reports for pipelines hold for every name and text: well formed, valid, bounded, without a second command."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import fromstring

import xmlschema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from spinal.documents.comparison import Comparison, Outcome, RuleOutcome, Waived
from spinal.report.content.cases import LONGEST
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Reader
from spinal.report.github import LARGEST, annotations, failure_annotation, failure_summary, summary
from tests.support.verdicts import LIMITED, verdict, with_verdict

HOSTILE = (
    "", "]]>", "::error::x", "##[error]x", "%0A::stop-commands::x", "a\n::warning::b", "a\r\nb",
    "<script>&amp;</failure>", "\x00\x01\x08\x0b\x0c\x1b[2J\x7f\x85\u2028\ufffe\uffff", "\udc80", "\U0001f600 𝔸",
    "\u202eabc", 'a"b\\c{d}e', "x" * 10_000, "]]>" * 4000, "\x00" * 10_000, "| a | b |\n|---|", "</details>", "# EOF",
    "💥" * 5000, "../../x", "{{7*7}}", "$(id)",
)  # fmt: skip
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(), max_size=60))
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["pass", "warn", "fail", "inconclusive"])
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
LINKED = Reader(links={"report": "https://spinal.example/x"})
LONGEST_OF_ALL = 2 * (LONGEST + 500)
"""Characters: a text with a sentence around it, every character of it escaped for Markdown."""
BOUNDED = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def hostile_rules(draw: st.DrawFn) -> RuleOutcome:
    waived = None
    if draw(st.booleans()):
        waived = Waived.model_construct(reason=draw(TEXTS), expires=draw(st.dates()), would_be=draw(OUTCOMES))
    return RuleOutcome.model_construct(
        rule=draw(TEXTS),
        outcome=draw(OUTCOMES) if waived is None else "pass",
        reasons=tuple(draw(st.lists(TEXTS, max_size=2))),
        asks=draw(TEXTS),
        severity=draw(st.sampled_from(["fail", "warn", None])),
        path=draw(st.none() | TEXTS),
        of=draw(st.none() | TEXTS),
        value=draw(st.none() | NUMBERS),
        ci=draw(st.none() | st.tuples(NUMBERS, NUMBERS)),
        unit=draw(TEXTS),
        bad=draw(st.sampled_from(["above", "below", None])),
        limit=draw(st.none() | NUMBERS),
        waived=waived,
    )


@st.composite
def hostile(draw: st.DrawFn) -> Comparison:
    rules = tuple(draw(st.lists(hostile_rules(), max_size=4)))
    given_verdict = verdict("pass", (LIMITED,)).model_copy(
        update={
            "outcome": draw(OUTCOMES),
            "rules": rules,
            "policy": draw(TEXTS),
            "reasons": (draw(TEXTS),),
            "decided_by": draw(st.none() | TEXTS),
        }
    )
    return with_verdict(given_verdict, reference=draw(TEXTS), candidate=draw(TEXTS))


@cache
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(Path(__file__).resolve().parent.parent / "support" / "junit-10.xsd")


@BOUNDED
@given(hostile(), st.sampled_from(["fail", "warn"]))
def test_junit_is_valid_and_counts_what_it_holds(document: Comparison, fail_on: str) -> None:
    text = FORMATS["junit"].written(document, Reader(fail_on))  # type: ignore[arg-type]  # sampled from its literal
    schema().validate(text)
    text.encode("utf-8")
    root = fromstring(text)
    assert len(list(root.iter("failure"))) == int(root.attrib["failures"])
    assert len(list(root.iter("testcase"))) == int(root.attrib["tests"])
    assert len(list(root.iter("skipped"))) == int(root[0].attrib["skipped"])
    stops = document.verdict.outcome in ("fail", "inconclusive") or (document.verdict.outcome, fail_on) == (
        "warn",
        "warn",
    )
    assert not stops or int(root.attrib["failures"]) > 0


@BOUNDED
@given(TEXTS, TEXTS, TEXTS)
def test_an_error_of_junit_is_valid(detail: str, hint: str, subject: str) -> None:
    render_failure = FORMATS["junit"].render_failure
    assert render_failure is not None
    text = render_failure({"code": detail, "detail": detail, "hint": hint}, subject)
    schema().validate(text)
    text.encode("utf-8")


def _texts(value: object) -> Iterator[str]:
    """Every text of a value read from JSON, names of members included."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


@BOUNDED
@given(hostile())
def test_sarif_and_reports_of_gitlab_are_json_of_bounded_texts(document: Comparison) -> None:
    for format in ("sarif", "gitlab-annotations", "gitlab-codequality"):
        text = FORMATS[format].written(document, LINKED)
        text.encode("utf-8")
        # What a reader of the file counts: JSON writes one character beyond the first plane as twelve.
        assert max(map(len, _texts(json.loads(text))), default=0) <= LONGEST_OF_ALL
    run = json.loads(FORMATS["sarif"].written(document))["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].startswith("models")


@BOUNDED
@given(hostile())
def test_metrics_are_read_by_the_reference_parser(document: Comparison) -> None:
    text = FORMATS["gitlab-metrics"].written(document)
    text.encode("utf-8")
    assert list(text_string_to_metric_families(text))
    for line in text.splitlines():
        # As GitLab reads a line: what stands in braces loses its spaces, and the rest is a name and a value.
        assert line.startswith("# ") or line.partition("}")[2].count(" ") == 1, line


@BOUNDED
@given(hostile(), st.sampled_from(["fail", "warn"]))
def test_annotations_are_one_command_a_line_and_at_most_ten(document: Comparison, fail_on: str) -> None:
    lines = annotations(document, Reader(fail_on))  # type: ignore[arg-type]  # sampled from its literal
    assert len(lines) <= 10
    for line in [*lines, failure_annotation({"detail": document.candidate.source}, document.reference.source)]:
        level, title, *_ = line.removeprefix("::").split(" ", 1)[0], line.split("::")[1]
        assert level in ("error", "warning", "notice")
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert "," not in title.partition("title=")[2]
        # A percent sign begins one of the codes that GitHub reads, and nothing else.
        assert all(code[:2] in ("25", "0A", "0D", "3A", "2C") for code in line.split("%")[1:])


@BOUNDED
@given(hostile(), st.integers(0, LARGEST))
def test_a_summary_keeps_to_its_room(document: Comparison, room: int) -> None:
    text = summary(document, LINKED, room)
    assert len(text.encode("utf-8")) <= room
    # What a name holds is escaped, and ends nothing.
    assert len(re.findall(r"(?<!\\)<details", text)) == len(re.findall(r"(?<!\\)</details", text))
    failure_summary({"detail": document.candidate.source, "hint": "\x00"}, document.candidate.source).encode("utf-8")
