"""Reports for pipelines: what each says of every outcome, of verdicts of earlier releases, and of no verdict at all."""

import json
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
import xmlschema
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from spinal.documents.comparison import Comparison, Outcome, RuleOutcome
from spinal.errors import NoVerdict, UsageError
from spinal.report.content.cases import cases, identity, model_name, place, worst_first
from spinal.report.formats import FORMATS, format_of
from spinal.report.formats.format import Reader
from tests.support.fabricated import trace
from tests.support.verdicts import (
    EVERY,
    FORMER,
    LIMITED,
    PASSED,
    WAIVED,
    WARNED,
    verdict,
    with_verdict,
)

STRICT = Reader(fail_on="warn")
LINKED = Reader(links={"report": "https://spinal.example/v1/audits/1/report?format=html"})
VERDICT_FORMATS = [made.name for made in FORMATS.values() if made.needs_verdict]


@cache
def schema() -> xmlschema.XMLSchema:
    """That of Jenkins' xUnit plugin (MIT, in its head), as pytest 9.1.1 distributes it."""
    return xmlschema.XMLSchema(Path(__file__).resolve().parent.parent / "support" / "junit-10.xsd")


def junit(document: Comparison, reader: Reader = Reader()) -> Element:  # noqa: B008  frozen
    text = FORMATS["junit"].written(document, reader)
    schema().validate(text)
    return fromstring(text)


def by_case(root: Element) -> dict[str, list[str]]:
    return {
        case.attrib["name"]: [child.tag for child in case if child.tag != "system-out"]
        for case in root.iter("testcase")
    }


def sarif(document: Comparison, reader: Reader = Reader()) -> dict[str, Any]:  # noqa: B008  frozen
    run: dict[str, Any] = json.loads(FORMATS["sarif"].written(document, reader))["runs"][0]
    return run


def metrics(document: Comparison) -> dict[tuple[str, str], float]:
    text = FORMATS["gitlab-metrics"].written(document)
    return {
        (sample.name, sample.labels.get("rule", sample.labels.get(sample.name, sample.labels.get("signal", "")))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# JUnit


def test_junit_has_a_case_for_each_rule_and_says_what_it_found() -> None:
    root = junit(with_verdict(verdict("fail", EVERY)))
    assert by_case(root) == {
        "nll_change": ["failure"], "gap": [], "length": [], "refusals": ["failure"], "code_nll": ["skipped"],
    }  # fmt: skip
    for counted in (root, root[0]):
        assert (counted.attrib["tests"], counted.attrib["failures"], counted.attrib["errors"]) == ("5", "2", "0")
    assert root[0].attrib["skipped"] == "1"
    failures = [failure.attrib["type"] for failure in root.iter("failure")]
    assert failures == ["fail", "inconclusive"]
    skipped = next(root.iter("skipped")).attrib["message"]
    assert "known since the last release" in skipped
    assert "2030-01-31" in skipped


def test_junit_carries_value_interval_and_limit_of_each_rule() -> None:
    root = junit(with_verdict(verdict("fail", (LIMITED, WARNED))))
    told = {one.attrib["name"]: one.attrib["value"] for one in root.iter("property")}
    assert told["nll_change.value"] == "3.87"
    assert told["nll_change.interval"] == "[3.5, 4.2]"
    assert told["nll_change.limit"] == "1"
    assert "length.interval" not in told
    assert (told["verdict"], told["policy"], told["decided_by"]) == ("fail", "acme-release/3", "nll_change")


def test_a_warning_is_a_failure_of_junit_where_it_is_to_fail() -> None:
    document = with_verdict(verdict("warn", (WARNED, PASSED)))
    assert by_case(junit(document)) == {"length": [], "gap": []}
    told = [text.text or "" for text in junit(document).iter("system-out")]
    assert told[0].startswith("warn\n")
    strict = junit(document, STRICT)
    assert by_case(strict) == {"length": ["failure"], "gap": []}
    assert strict.attrib["failures"] == "1"


def test_what_keeps_a_verdict_from_being_made_is_an_error_of_junit() -> None:
    render_failure = FORMATS["junit"].render_failure
    assert render_failure is not None
    text = render_failure({"code": "out_of_memory", "detail": "no memory", "hint": "take a larger one"}, "sft → dpo")
    schema().validate(text)
    root = fromstring(text)
    assert by_case(root) == {"audit": ["error"]}
    assert (root.attrib["errors"], root.attrib["failures"]) == ("1", "0")
    error = next(root.iter("error"))
    assert (error.attrib["type"], error.attrib["message"]) == ("out_of_memory", "no memory")
    assert "take a larger one" in (error.text or "")


def test_only_junit_says_that_nothing_was_judged() -> None:
    """SARIF without results would close the alerts of the last audit, and metrics would be those of a verdict."""
    assert [made.name for made in FORMATS.values() if made.render_failure is not None] == ["junit"]


def test_two_models_of_one_pipeline_are_told_apart_and_versions_are_not() -> None:
    def told(candidate: str) -> tuple[str, str, str]:
        document = with_verdict(verdict("fail", (LIMITED,)), candidate=candidate)
        classname = next(junit(document).iter("testcase")).attrib["classname"]
        (first, *_) = text_string_to_metric_families(FORMATS["gitlab-metrics"].written(document))
        return classname, first.samples[0].labels["model"], sarif(document)["automationDetails"]["id"]

    assert told("mlflow:acme.chat/3") == ("spinal.mlflow-acme-chat", "mlflow:acme.chat", "spinal/mlflow-acme-chat/")
    assert told("mlflow:acme.chat/4") == told("mlflow:acme.chat/3")
    assert not set(told("mlflow:acme.code/3")) & set(told("mlflow:acme.chat/3"))


# verdicts of earlier releases


@pytest.mark.parametrize("format", VERDICT_FORMATS)
@pytest.mark.parametrize("rules", [(), FORMER, EVERY])
@pytest.mark.parametrize("outcome", ["pass", "warn", "fail", "inconclusive"])
def test_every_verdict_is_told(format: str, outcome: Outcome, rules: tuple[RuleOutcome, ...]) -> None:
    text = FORMATS[format].written(with_verdict(verdict(outcome, rules)), LINKED)
    assert text.endswith("\n")


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
@pytest.mark.parametrize("rules", [(), (PASSED,), (WAIVED,), (WARNED,)])
def test_no_report_is_milder_than_its_verdict(outcome: Outcome, rules: tuple[RuleOutcome, ...]) -> None:
    document = with_verdict(verdict(outcome, rules))
    assert by_case(junit(document))["verdict"] == ["failure"]
    assert sarif(document)["results"][0]["ruleId"] == "verdict"
    assert sarif(document)["results"][0]["level"] == "error"
    assert json.loads(FORMATS["gitlab-codequality"].written(document))[0]["severity"] == "critical"


def test_a_verdict_that_its_rules_say_is_no_case_itself() -> None:
    assert [one.name for one in cases(with_verdict(verdict("fail", FORMER)))] == ["damage", "margin"]
    assert "verdict" not in by_case(junit(with_verdict(verdict("pass", (PASSED, WAIVED)))))


# SARIF


def test_sarif_has_a_result_for_what_was_found_by_its_severity() -> None:
    run = sarif(with_verdict(verdict("fail", EVERY)))
    found = {one["ruleId"]: one for one in run["results"]}
    assert {name: one["level"] for name, one in found.items()} == {
        "nll_change": "error", "length": "warning", "refusals": "error", "code_nll": "error",
    }  # fmt: skip
    assert found["refusals"]["message"]["text"].startswith("local:sft → local:dpo: not decided: ")
    assert found["nll_change"]["properties"]["interval"] == "[3.5, 4.2]"
    strict = {one["ruleId"]: one["level"] for one in sarif(with_verdict(verdict("warn", (WARNED,))), STRICT)["results"]}
    assert strict == {"length": "error"}


def test_a_waived_finding_is_suppressed_with_its_reason() -> None:
    run = sarif(with_verdict(verdict("fail", EVERY)))
    suppressed = {one["ruleId"]: one["suppressions"] for one in run["results"] if "suppressions" in one}
    assert list(suppressed) == ["code_nll"]
    assert suppressed["code_nll"][0]["justification"] == "known since the last release (until 2030-01-31)"
    assert suppressed["code_nll"][0]["status"] == "accepted"


def test_every_rule_of_sarif_has_help_and_every_result_one_place() -> None:
    run = sarif(with_verdict(verdict("fail", (*EVERY, *FORMER))))
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["help"]["text"]
        assert rule["shortDescription"]["text"]
        assert rule["fullDescription"]["text"]
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert len(result["locations"]) == 1


def test_one_alert_for_each_rule_and_model_in_every_version_of_it() -> None:
    def prints(reference: str, candidate: str, **changes: Any) -> dict[str, str]:
        rules = tuple(rule.model_copy(update=changes) for rule in (LIMITED, WARNED))
        run = sarif(with_verdict(verdict("fail", rules), reference=reference, candidate=candidate))
        return {one["ruleId"]: one["partialFingerprints"]["primaryLocationLineHash"] for one in run["results"]}

    first = prints("hf:acme/base@aaaa", "mlflow:chat/3")
    later = prints(
        "hf:acme/base@bbbb", "mlflow:chat/4", value=9.0, ci=(8.0, 9.5), limit=2.0, reasons=("worse",), of="x"
    )
    assert first == later
    assert len(set(first.values())) == 2
    assert not set(first.values()) & set(prints("hf:acme/base@aaaa", "mlflow:other/3").values())
    assert not set(first.values()) & set(prints("hf:acme/more@aaaa", "mlflow:chat/3").values())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("local:dpo-short", "local:dpo-short"),
        ("local:acme/chat/checkpoint-1200", "local:acme/chat"),
        ("local:chat/2026-11-20", "local:chat"),
        ("local:chat/v3.1", "local:chat"),
        ("hf:acme/llama-7b@main", "hf:acme/llama-7b"),
        ("mlflow:chat@champion", "mlflow:chat"),
        ("local:7", "local:7"),
        ("checkpoints/sft", "checkpoints/sft"),
    ],
)
def test_a_model_is_called_the_same_in_every_version(source: str, expected: str) -> None:
    assert model_name(source) == expected


def test_names_cannot_borrow_from_their_neighbours() -> None:
    found = {
        identity(with_verdict(verdict("fail", (LIMITED,)), reference=one, candidate=other), case)
        for one, other in (("local:a", "local:bc"), ("local:ab", "local:c"))
        for case in cases(with_verdict(verdict("fail", (LIMITED,))))
    }
    assert len(found) == 2


def test_the_place_of_an_alert_stays_in_the_repository() -> None:
    for source in ("local:../../etc/passwd", "local:/a b/ü\n", "::", "", "local:" + "x/" * 5000):
        path = place(with_verdict(verdict("fail", (LIMITED,)), candidate=source))
        assert path.startswith("models")
        assert ".." not in path.split("/")
        assert path.isascii()
        assert len(path) < 800


# GitLab


def test_metrics_hold_the_verdict_and_every_number_of_the_rules() -> None:
    found = metrics(with_verdict(verdict("fail", EVERY)))
    assert found["spinal_verdict", "fail"] == 1.0
    assert found["spinal_verdict", "pass"] == 0.0
    assert found["spinal_rule_value", "nll_change"] == 3.87
    assert (found["spinal_rule_low", "nll_change"], found["spinal_rule_high", "nll_change"]) == (3.5, 4.2)
    assert found["spinal_rule_limit", "nll_change"] == 1.0
    assert ("spinal_rule_low", "length") not in found
    assert found["spinal_damage", "gap"] == pytest.approx(0.146358)


def test_annotations_are_links_the_verdict_first() -> None:
    found = json.loads(FORMATS["gitlab-annotations"].written(with_verdict(verdict("fail", EVERY)), LINKED))
    labels = [one["external_link"]["label"] for one in found["spinal verdict"]]
    assert labels[0].startswith("fail: ")
    assert [label.split(":")[0] for label in labels[1:]] == ["fail", "inconclusive", "warn", "fail (waived)"]
    urls = {one["external_link"]["url"] for section in found.values() for one in section}
    assert urls == set(LINKED.links.values())


def test_annotations_without_an_address_are_refused() -> None:
    with pytest.raises(UsageError, match="no address to link to"):
        FORMATS["gitlab-annotations"].written(with_verdict(verdict("pass", (PASSED,))))


def test_code_quality_lists_findings_by_severity() -> None:
    document = with_verdict(verdict("fail", EVERY))
    found = {one["check_name"]: one for one in json.loads(FORMATS["gitlab-codequality"].written(document))}
    severities = {name: one["severity"] for name, one in found.items()}
    assert severities == {"nll_change": "critical", "refusals": "critical", "length": "minor", "code_nll": "info"}
    assert "waived until 2030-01-31" in found["code_nll"]["description"]
    strict = json.loads(FORMATS["gitlab-codequality"].written(document, STRICT))
    assert {one["check_name"]: one["severity"] for one in strict}["length"] == "critical"


# all of them


@pytest.mark.parametrize("format", VERDICT_FORMATS)
def test_a_trace_has_no_verdict_to_tell(format: str) -> None:
    with pytest.raises(NoVerdict, match=format):
        FORMATS[format].written(trace("sft", 4, 8), LINKED)


@pytest.mark.parametrize("format", VERDICT_FORMATS)
def test_the_same_document_gives_the_same_report(format: str) -> None:
    document = with_verdict(verdict("fail", EVERY))
    assert FORMATS[format].written(document, LINKED) == FORMATS[format].written(document, LINKED)


def test_findings_are_told_worst_first_and_waived_ones_last() -> None:
    told = [one.name for one in worst_first(cases(with_verdict(verdict("fail", EVERY[::-1]))))]
    assert told == ["nll_change", "refusals", "length", "code_nll"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.xml", "junit"),
        ("x.sarif", "sarif"),
        ("x.sarif.json", "sarif"),
        ("x.json", "json"),
        ("x.prom", "gitlab-metrics"),
    ],
)
def test_a_file_name_asks_for_its_format(name: str, expected: str) -> None:
    found = format_of(name)
    assert found is not None
    assert found.name == expected
