"""The report of a training run: what every format says of each status, and what the page draws."""

import json
import re
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
import xmlschema
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from spinal.documents.comparison import WORST_FIRST
from spinal.documents.series import Series, Status
from spinal.report import github, render
from spinal.report.content.address import is_address
from spinal.report.content.cases import cases, identity, judgement, place, worst_first
from spinal.report.content.series.lead import OUTCOMES, began, not_looked_at, run_name
from spinal.report.content.series.shares import MOST_COLUMNS, share_map
from spinal.report.content.series.tables import signals_table
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Reader
from spinal.report.page.share_map import LEVELS, level_of
from spinal.report.page.steps import Steps, run_figures
from tests.support.fabricated_series import HOSTILE, KINDS, Kind, hostile, series

LARGEST_PAGE = 1_000_000
"""Bytes of the page of 300 checkpoints of a model of 80 blocks: what the longest run that is drawn whole may weigh."""
STATUS: dict[Kind, Status] = {
    "healthy": "healthy", "drawdown": "destabilised", "limit": "destabilised", "watch": "watch",
    "inconclusive": "inconclusive", "insufficient": "insufficient_series", "waiting": "destabilised",
    "gaps": "healthy", "no account": "healthy", "empty": "insufficient_series",
}  # fmt: skip


def linked(document: Series) -> Reader:
    members = {f"step {one.step}": f"https://spinal.example/v1/audits/{one.step}" for one in document.members}
    return Reader(links={"report": "https://spinal.example/v1/series/7/report", **members})


@cache
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(Path(__file__).resolve().parent.parent / "support" / "junit-10.xsd")


def junit(document: Series, reader: Reader = Reader()) -> Element:  # noqa: B008  frozen
    text = FORMATS["junit"].written(document, reader)
    schema().validate(text)
    return fromstring(text)


def by_case(root: Element) -> dict[str, str]:
    """Case -> ``failure``, ``skipped``, or empty where it has passed."""
    return {
        case.attrib["name"]: "".join(child.tag for child in case if child.tag != "system-out")
        for case in root.iter("testcase")
    }


def sarif(document: Series, reader: Reader = Reader()) -> dict[str, Any]:  # noqa: B008  frozen
    run: dict[str, Any] = json.loads(FORMATS["sarif"].written(document, reader))["runs"][0]
    return run


def metrics(document: Series) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("signal", sample.labels.get(sample.name, sample.labels.get("state", "")))): (
            sample.value
        )
        for family in text_string_to_metric_families(FORMATS["gitlab-metrics"].written(document))
        for sample in family.samples
    }


# what it comes to


@pytest.mark.parametrize("kind", KINDS)
def test_every_status_is_told_in_every_format(kind: Kind) -> None:
    document = series(kind)
    assert document.status == STATUS[kind]
    for made in FORMATS.values():
        text = made.written(document, linked(document))
        assert text == made.written(document, linked(document)), "the same document gives the same report"
        assert text.endswith("\n")
        if made.name != "gitlab-codequality":  # which lists findings alone
            assert document.status in text.lower().replace(" ", "_"), made.name


@pytest.mark.parametrize("kind", KINDS)
def test_no_case_stops_a_pipeline_that_the_status_lets_through_and_the_other_way_round(kind: Kind) -> None:
    document = series(kind)
    found = cases(document)
    worst = min((one.outcome for one in found), key=WORST_FIRST.index)
    assert worst == OUTCOMES[document.status] == judgement(document).outcome
    stopped = [name for name, tag in by_case(junit(document)).items() if tag == "failure"]
    assert bool(stopped) is (document.status not in ("healthy", "watch"))


def test_a_watched_run_fails_where_warnings_are_to_fail() -> None:
    strict = junit(series("watch"), Reader(fail_on="warn"))
    assert [name for name, tag in by_case(strict).items() if tag == "failure"] == ["gap"]


def test_a_status_that_no_case_says_is_a_case_itself() -> None:
    document = series("healthy", status="destabilised", reasons=("worse",))
    assert by_case(junit(document))["series"] == "failure"
    assert sarif(document)["results"][0]["ruleId"] == "series"
    assert "series" not in by_case(junit(series("drawdown")))


# JUnit


def test_junit_has_a_case_for_each_signal_and_each_checkpoint() -> None:
    document = series("drawdown", 12)
    told = by_case(junit(document))
    assert list(told) == [*document.signals, *(f"step {one.step}" for one in document.members)]
    assert {name for name, tag in told.items() if tag} == set(document.alarmed)
    properties = {one.attrib["name"]: one.attrib["value"] for one in junit(document).iter("property")}
    assert properties["status"] == "destabilised"
    assert properties["onset_step"] == str(document.onset_step)
    assert properties["worse_from_step"] == str(document.worse_from_step)
    assert properties["series"] == document.digest
    assert properties["nll_change.onset_step"] == str(document.alarms[0].onset_step)


def test_a_limit_at_one_checkpoint_fails_that_checkpoint() -> None:
    told = by_case(junit(series("limit", 12)))
    assert [name for name, tag in told.items() if tag == "failure"] == ["step 1200"]


def test_a_signal_that_passed_a_limit_and_did_not_fall_is_not_said_to_have_no_alarm() -> None:
    case = next(one for one in cases(series("limit", 12)) if one.name == "nll_change")
    assert case.message == "no lasting fall; beyond a limit at step 1200, see there"


def test_a_signal_that_has_values_and_was_not_looked_at_is_no_pass() -> None:
    document = series("healthy", 12)
    few = document.signals["gap"].model_copy(update={"reason": "7 checkpoints have it"})
    told = document.model_copy(update={"signals": document.signals | {"gap": few}})
    case = next(one for one in cases(told) if one.name == "gap")
    assert case.left_out
    assert "not wholly looked at" in case.message
    assert any("not wholly looked at over the steps: 7 checkpoints have it" in row for row in signals_table(told).rows)
    assert any("7 checkpoints have it" in one for one in not_looked_at(told))


def test_checkpoints_beyond_a_limit_that_alarmed_before_fail_too() -> None:
    """A run alarms once for a limit; the checkpoints after it are no better."""
    document = series("limit", 12)
    (alarm,) = document.alarms
    early = alarm.model_copy(update={"step": 1100, "onset_step": 1000, "worse_from_step": 1100})
    told = by_case(junit(document.model_copy(update={"alarms": (early,)})))
    assert told["step 1200"] == "failure", "it fails by itself, after the first one beyond the limit"
    assert told["step 1000"] == ""
    within = (*document.members[:-1], document.members[-1].model_copy(update={"beyond": ()}))
    again = by_case(junit(document.model_copy(update={"alarms": (early,), "members": within})))
    assert again["step 1200"] == "", "it is within the limits again, and fails for something else"
    other = document.model_copy(update={"alarms": (), "status": "healthy", "members": within})
    assert by_case(junit(other))["step 1200"] == "", "a policy may fail a checkpoint for what is no damage"


def test_a_checkpoint_without_an_answer_is_a_failure_where_the_run_has_none_either() -> None:
    document = series("inconclusive", 12)
    members = list(document.members)
    members[2] = members[2].model_copy(update={"verdict": "inconclusive"})
    told = by_case(junit(document.model_copy(update={"members": tuple(members)})))
    assert told["step 300"] == "failure"
    watched = document.model_copy(update={"members": tuple(members), "status": "watch"})
    assert by_case(junit(watched))["step 300"] == ""


def test_a_limit_says_when_it_was_passed_and_not_when_what_led_there_began() -> None:
    assert began(series("limit", 12)) == (
        "It went beyond a limit of damage between steps 1,100 and 1,200, known at step 1,200."
    )


def test_a_run_that_is_worse_from_its_first_checkpoint_on_says_so() -> None:
    document = series("drawdown", onset_step=100, worse_from_step=100, first_alarm_step=100)
    assert began(document) == "It began at step 100 or before, known at step 100."
    (drawn, *_) = run_figures(document)
    assert drawn.onset is not None
    assert drawn.onset[1] > 0.0, "a stretch of no width could not be seen"


def test_what_was_not_measured_is_a_failure_only_where_the_status_needs_it() -> None:
    told = by_case(junit(series("inconclusive", 12)))
    assert told["step 700"] == "failure", "a checkpoint that failed"
    assert told["margin_change"] == "skipped", "a signal that nothing asks for"
    waiting = by_case(junit(series("waiting", 12)))
    assert waiting["step 1200"] == "skipped", "a checkpoint that waits has failed nothing yet"
    healthy = by_case(junit(series("gaps", 12)))
    assert "failure" not in healthy.values()
    types = {one.attrib["type"] for one in junit(series("gaps", 12)).iter("skipped")}
    assert types == {"not_measured"}


def test_a_needed_signal_without_an_answer_is_a_failure_of_its_own() -> None:
    document = series("insufficient")
    short = {
        key: one.model_copy(update={"needed": True, "reason": "fewer than five checkpoints"})
        for key, one in document.signals.items()
    }
    told = by_case(junit(document.model_copy(update={"signals": short})))
    assert all(told[key] == "failure" for key in short)
    assert "series" not in told


# SARIF and GitLab


def test_sarif_has_one_rule_for_all_checkpoints_and_a_place_and_a_print_for_each() -> None:
    document = series("limit", 12)
    run = sarif(document)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == [*document.signals, "member_limit"]
    (result,) = run["results"]
    assert rules[result["ruleIndex"]] == result["ruleId"] == "member_limit"
    assert "step 1200" in result["message"]["text"]
    assert run["properties"]["status"] == "destabilised"
    assert run["properties"]["onset_step"] == document.onset_step
    prints = {identity(document, one) for one in cases(document)}
    assert len(prints) == len(document.signals) + len(document.members)


def test_a_run_is_the_same_one_when_checkpoints_are_added() -> None:
    short, long = series("drawdown", 12), series("drawdown", 13)
    assert place(short) == place(long) == "models/local/runs/dpo-7"
    prints = [{one.name: identity(document, one) for one in worst_first(cases(document))} for document in (short, long)]
    assert prints[0]["nll_change"] == prints[1]["nll_change"]
    assert sarif(short)["automationDetails"] == sarif(long)["automationDetails"]
    assert place(series("drawdown", labels={"name": "chat"})) == "models/chat"


def test_metrics_hold_status_steps_and_the_last_value_of_every_signal() -> None:
    document = series("drawdown")
    found = metrics(document)
    assert found["spinal_series_status", "destabilised"] == 1.0
    assert found["spinal_series_status", "healthy"] == 0.0
    assert found["spinal_series_onset_step", ""] == document.onset_step
    assert found["spinal_series_first_alarm_step", ""] == document.first_alarm_step
    assert found["spinal_series_members", "measured"] == len(document.members)
    last = document.signals["nll_change"].points[-1].value
    assert last is not None
    assert found["spinal_series_signal_value", "nll_change"] == pytest.approx(last, rel=1e-5)
    assert ("spinal_series_signal_fall", "gap") not in found
    assert ("spinal_series_onset_step", "") not in metrics(series("healthy"))
    assert ("spinal_series_signal_value", "margin_change") not in metrics(series("inconclusive"))


def test_annotations_lead_to_the_checkpoint_that_they_are_about() -> None:
    document = series("limit", 12)
    found = json.loads(FORMATS["gitlab-annotations"].written(document, linked(document)))
    assert [one["external_link"]["label"] for one in found["spinal"]] == ["report"]
    whole, limit = (one["external_link"] for one in found["spinal verdict"])
    assert (whole["label"][:12], whole["url"]) == ("destabilised", linked(document).links["report"])
    assert limit["url"] == linked(document).links["step 1200"]


def test_code_quality_lists_alarms_by_severity() -> None:
    def severities(kind: Kind) -> dict[str, str]:
        text = FORMATS["gitlab-codequality"].written(series(kind))
        return {one["check_name"]: one["severity"] for one in json.loads(text)}

    assert severities("limit") == {"step 1200": "critical"}
    assert severities("watch") == {"gap": "minor"}
    assert severities("healthy") == {}


# Markdown and the summary of GitHub


def test_markdown_says_the_status_first_then_what_was_not_looked_at_and_links_checkpoints() -> None:
    document = series("drawdown", 12)
    text = FORMATS["md"].written(document, linked(document))
    assert text.index("**DESTABILISED: ") < text.index("## What was not looked at") < text.index("## What alarmed")
    assert began(document) in text
    assert "| [100](<https://spinal.example/v1/audits/100>) |" in text
    assert str(document.members[0].comparison) in text
    assert "[100]" not in render(document, "md")


def test_the_summary_of_github_tells_the_run_and_its_worst_cases_first() -> None:
    document = series("limit", 300, 4)
    text = github.summary(document, linked(document))
    assert "**DESTABILISED**" in text
    rows = [line for line in text.splitlines() if line.startswith("| step ")]
    assert rows[0].startswith("| step 30000 | fail ")
    assert len(text.encode()) <= github.LARGEST
    said = github.annotations(document, Reader())
    assert said[0].startswith("::error title=fail%3A step 30000::")
    assert len(said) <= github.MOST_ANNOTATIONS


# JSON


@pytest.mark.parametrize("kind", KINDS)
def test_json_reads_back_as_it_was(kind: Kind) -> None:
    assert Series.model_validate_json(render(series(kind), "json")) == series(kind)


# the page


def test_the_page_draws_every_measured_signal_with_its_band() -> None:
    damage, early, carries = run_figures(series("drawdown"))
    assert [row.name for row in damage.rows] == [
        one.label for one in series("drawdown").signals.values() if one.role == "damage"
    ]
    for row in (*damage.rows, *early.rows):
        assert row.drawn.count('class="band one"') == 1
    assert [row.kind for row in carries.rows] == ["map"]


def test_where_it_began_is_marked_between_the_last_good_step_and_the_first_worse_one() -> None:
    document = series("drawdown", 12)
    axis = Steps(tuple(one.step for one in document.members))
    for drawn in run_figures(document):
        assert drawn.onset is not None
        left, wide = drawn.onset
        assert left == axis.at(document.onset_step or 0)
        assert left + wide == pytest.approx(axis.at(document.worse_from_step or 0))
    assert all(drawn.onset is None for drawn in run_figures(series("watch")))


def test_an_alarm_is_marked_where_it_is_known_and_told_apart_without_colour() -> None:
    document = series("drawdown", 12)
    axis = Steps(tuple(one.step for one in document.members))
    rows = {row.name: row.drawn for row in run_figures(document)[0].rows}
    for alarm in document.alarms:
        drawn = rows[document.signals[alarm.signal].label]
        assert f'<line class="alarm" x1="{axis.at(alarm.step):.2f}%"' in drawn
        assert '<path class="alarm"' in drawn
    assert 'class="alarm"' not in rows["ends where answers are over"]
    assert '<path class="warning"' in run_figures(series("watch"))[1].rows[0].drawn


def test_a_limit_is_drawn_where_values_come_near_and_told_where_they_do_not() -> None:
    rows = {row.name: row for row in run_figures(series("limit"))[0].rows}
    assert 'class="limit"' in rows["predicts text worse"].drawn
    assert rows["predicts text worse"].note == ""
    assert 'class="limit"' not in rows["ends where answers are over"].drawn
    assert "A limit of −3 lies beyond" in rows["ends where answers are over"].note


def test_no_line_is_drawn_over_a_gap_and_no_lone_checkpoint_is_lost() -> None:
    document = series("gaps", 100)
    row = run_figures(document)[0].rows[0]
    values = [point.value for point in document.signals["nll_change"].points]
    runs = "".join("x" if value is not None else " " for value in values).split()
    assert len(runs) > 3
    assert row.drawn.count('class="curve one"') == len(runs)
    assert row.drawn.count('class="dot"') == sum(len(run) == 1 for run in runs)


def test_the_area_of_a_mark_is_its_share() -> None:
    for value in (0.0, 0.0001, 0.03, 0.2, 0.5):
        side = level_of(value, 0.5) / LEVELS
        # Half a level, or the smallest mark.
        assert abs(side - (value / 0.5) ** 0.5) <= 0.5 / LEVELS + 1e-9 or level_of(value, 0.5) == 1
    assert level_of(None, 0.5) == level_of(0.0, 0.5) == 0
    assert level_of(-0.5, 0.5) == LEVELS


def test_a_map_says_which_cells_work_against_the_change_and_which_are_not_known() -> None:
    (row,) = run_figures(series("gaps"))[2].rows
    assert 'class="cell against"' in row.drawn
    assert 'class="missing"' in row.drawn
    labels = dict(row.key)
    assert labels["missing"] == "no account"
    assert labels["against"] == "against the change"
    assert next(label for _, label in row.ticks) == "E"
    assert [label for _, label in row.ticks][-1] == "R"
    assert share_map(series("no account")) is None


def test_a_long_run_of_a_deep_model_has_a_page_of_bounded_size() -> None:
    document = series("drawdown", 300, 80)
    page = FORMATS["html"].written(document, linked(document))
    assert len(page.encode()) < LARGEST_PAGE
    shares = share_map(document)
    assert shares is not None
    assert len(shares.cells[0]) <= MOST_COLUMNS
    assert "largest of 3 checkpoints" in page
    for step in (100, 30_000):
        assert f'href="https://spinal.example/v1/audits/{step}"' in page


def test_a_cell_that_stands_for_several_holds_the_one_farthest_from_nought() -> None:
    document = series("healthy", 200, 2)
    members = list(document.members)
    members[7] = members[7].model_copy(update={"carried": {**members[7].carried, "block 2": -0.7}})
    shares = share_map(document.model_copy(update={"members": tuple(members)}))
    assert shares is not None
    assert shares.steps_each == 2
    assert shares.cells[shares.places.index("block 2")][3] == -0.7


def test_labels_of_steps_are_few_and_in_order() -> None:
    for count in (1, 2, 5, 12, 40, 300):
        names = Steps(tuple(1000 * at for at in range(1, count + 1))).names()
        assert 1 <= len(names) <= 9
        assert [x for x, *_ in names] == sorted(x for x, *_ in names)
        assert names[-1][1] == (f"{count}k" if count >= 10 else f"{1000 * count:,}")


def test_a_checkpoint_leads_to_its_own_report_and_to_nothing_else() -> None:
    document = series("drawdown", 6)
    page = FORMATS["html"].written(document, linked(document))
    assert re.findall(r'<a href="([^"]+)">(\d+)</a>', page) == [
        (f"https://spinal.example/v1/audits/{one.step}", str(one.step)) for one in document.members
    ]
    assert "0192f0c8" not in page, "an id is needed only where no link leads there"
    assert "0192f0c8" in render(document, "html")
    harmful = Reader(links={"step 100": "javascript:alert(1)", "step 200": 'https://x.example/"onclick="x'})
    for format in ("html", "md"):
        text = FORMATS[format].written(document, harmful)
        assert "<a href" not in text
        assert "](<" not in text


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://spinal.example/v1/audits/7/report?format=html", True),
        ("reports/step-100.html", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//elsewhere.example", False),
        ("https://x.example/>) [b](c", False),
        ("", False),
    ],
)
def test_only_addresses_of_the_web_or_beside_the_report_are_links(address: str, expected: bool) -> None:
    assert is_address(address) is expected


def test_what_was_not_looked_at_is_said() -> None:
    document = series("inconclusive", 12)
    said = " ".join(not_looked_at(document))
    for told in (*document.remarks, "no pairs were given", "The checkpoint at step 700 is not measured"):
        assert told in said
    page = unescape(render(document, "html"))
    assert "What was not looked at" in page
    assert "no pairs were given" in page
    assert "still waiting" in " ".join(not_looked_at(series("waiting")))
    assert "not accounted for" in " ".join(not_looked_at(series("no account")))
    many = series("gaps", 12)
    assert "3 checkpoints are (steps 300, 1,000, 1,200) not measured" in not_looked_at(many)


def test_digests_of_everything_stand_in_the_page() -> None:
    document = series("drawdown", 12)
    page = render(document, "html")
    assert document.digest in page
    assert document.policy_digest in page
    for one in document.members:
        assert str(one.weights_digest) in page
        assert str(one.comparison) in page


def test_hostile_names_are_shown_and_obeyed_in_no_format() -> None:
    document = hostile()
    for made in FORMATS.values():
        text = made.written(document, linked(document))
        assert "\u202e" not in text, made.name
        assert "\x1b" not in text, made.name
    page = FORMATS["html"].written(document, linked(document))
    assert "<img" not in page
    assert page.count("<script>") == page.count("</script>") == 1
    assert " style=" not in page
    assert HOSTILE[:20] not in FORMATS["md"].written(document, linked(document))
    schema().validate(FORMATS["junit"].written(document))
    assert list(text_string_to_metric_families(FORMATS["gitlab-metrics"].written(document)))
    assert ".." not in place(document).split("/")


@pytest.mark.parametrize(
    ("models", "labels", "name"),
    [
        (("local:runs/a/checkpoint-4", "local:runs/a/checkpoint-8"), {}, "local:runs/a"),
        (("local:checkpoint-4", "local:checkpoint-8"), {}, "training run"),
        (("checkpoint-4",), {}, "training run"),
        (("local:checkpoint-4",), {"name": "chat, second try"}, "chat, second try"),
        ((), {}, "training run"),
    ],
)
def test_a_run_is_called_by_its_label_or_by_what_its_checkpoints_share(
    models: tuple[str, ...], labels: dict[str, str], name: str
) -> None:
    found = series()
    members = tuple(
        member.model_copy(update={"model": model}) for member, model in zip(found.members, models, strict=False)
    )
    assert run_name(found.model_copy(update={"members": members, "labels": labels})) == name
