"""What a command says off a terminal: a few lines, and JSON only where it is asked for."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from spinal.cli.output import Shown, emit
from spinal.cli.told import audit_in_a_few_lines, report_of
from spinal.client import Client
from spinal.documents.comparison import Comparison
from spinal.documents.trace import Trace
from spinal.errors import AuditNotFound
from tests.support.fabricated import changed_pair, trace
from tests.unit.test_first_screen import judged_by_rules

SERVER = "https://spinal.example:8443"


Piped = pytest.CaptureFixture[str]
"""Where a command writes that no terminal reads."""


def test_a_comparison_is_told_in_a_few_lines(capsys: Piped, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    emit(judged_by_rules(), Shown(outputs=[path]))
    told = capsys.readouterr().out
    lines = told.splitlines()
    assert len(lines) == 5
    assert lines[1] == "FAIL: Predicts code 20 times worse."
    assert lines[2].startswith("Decided by rule code of acme/3: does it still write code? ")
    assert lines[2].endswith(" 3 [2.5, 3.5] nats a token, bad at 1 or more")
    assert lines[3].startswith("Where: ")
    assert "Of all places" in lines[3]
    assert lines[4] == f"Report: {path}"
    assert "\x1b" not in told


def test_a_pass_names_no_rule(capsys: Piped) -> None:
    emit(changed_pair().compare(), Shown())
    assert re.fullmatch(
        r".+\nPASS: No sure sign of damage in anything that was measured\.\nWhere: Only blocks 8-10 changed.*\n",
        capsys.readouterr().out,
    )


def test_a_trace_is_told_in_two_lines(capsys: Piped) -> None:
    emit(trace("sft", 24, 8), Shown())
    assert re.search(
        r"^Depth trace of .*\n24 blocks, read on \d+ prompts.*blocks 17-24.* radians\.\n$", capsys.readouterr().out
    )


@pytest.mark.parametrize("document", [changed_pair().compare(), trace("sft", 4, 8)])
def test_json_is_the_document_where_it_is_asked_for(capsys: Piped, document: Comparison | Trace) -> None:
    emit(document, Shown(as_json=True))
    assert type(document).model_validate_json(capsys.readouterr().out) == document


class Service(Client):
    """Answers for scores as the service does, or refuses."""

    def __init__(self, scores: dict[str, Any] | None, report: str = "") -> None:
        super().__init__("http://127.0.0.1:1")
        self._scores, self._report = scores, report

    def report(self, audit_id: str, format: str = "html", *, fail_on: str = "fail") -> str:
        assert (audit_id, format) == ("7", "json")
        return self._report

    def scores(self, audit_id: str) -> dict[str, Any]:
        if self._scores is None:
            raise AuditNotFound(f"no scores of {audit_id}")
        return self._scores


def audit(**members: Any) -> dict[str, Any]:
    here = "/v1/audits/7"
    return {
        "id": "7", "state": "SUCCEEDED", "candidate": "local:dpo", "verdict": "fail",
        "verdict_reasons": ["predicts code 20 times worse"], "links": {"self": here, "report": f"{here}/report"},
    } | members  # fmt: skip


def test_an_audit_is_told_with_its_rule_and_a_link() -> None:
    made = judged_by_rules()
    scores = json.loads(made.model_dump_json(include={"verdict", "statements"}))
    scores["verdict"]["of_a_later_release"] = 1
    scores["verdict"]["rules"][0]["of_a_later_release"] = 1
    lines = audit_in_a_few_lines(Service(scores), audit(), SERVER + "/")
    assert lines[0] == "FAIL: Predicts code 20 times worse."
    assert lines[1].startswith("Decided by rule code of acme/3")
    assert lines[-1] == f"Report: {SERVER}/v1/audits/7/report"


@pytest.mark.parametrize("scores", [None, {}, {"verdict": {"outcome": "odd"}}, {"verdict": 3}])
def test_a_verdict_is_told_where_its_details_cannot_be_had(scores: dict[str, Any] | None) -> None:
    lines = audit_in_a_few_lines(Service(scores), audit(), SERVER)
    assert lines == ("FAIL: predicts code 20 times worse", f"Report: {SERVER}/v1/audits/7/report")


def test_an_audit_without_a_verdict_says_where_it_stands() -> None:
    queued = audit(state="QUEUED", verdict=None, verdict_reasons=[], links={"self": "/v1/audits/7", "report": None})
    lines = audit_in_a_few_lines(Service(None), queued, SERVER)
    assert lines == ("QUEUED: audit 7 of local:dpo", f"Audit: {SERVER}/v1/audits/7")


def test_a_service_with_pages_is_opened_in_a_browser() -> None:
    links = audit()["links"] | {"page": "/ui/audits/7"}
    assert audit_in_a_few_lines(Service(None), audit(links=links), SERVER)[-1] == f"Report: {SERVER}/ui/audits/7/report"
    going = audit(state="RUNNING", verdict=None, links=links | {"report": None})
    assert audit_in_a_few_lines(Service(None), going, SERVER)[-1] == f"Audit: {SERVER}/ui/audits/7"


def test_the_report_of_an_audit_is_read_where_there_is_one_that_this_release_knows() -> None:
    made, walked = judged_by_rules(), trace("sft", 4, 8)
    for document, comparison in ((made, made.digest), (walked, None)):
        service = Service(None, document.model_dump_json(by_alias=True))
        assert report_of(service, audit(comparison=comparison)) == document
    assert report_of(Service(None, '{"schema": "spinal.comparison/9"}'), audit(comparison="x")) is None
    running = audit(links={"self": "/v1/audits/7", "report": None})
    assert report_of(Service(None), running) is None
