"""A source, a locator, a rule, a format, a kind of prompt file: each is added in one place and found everywhere."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text

from service.app import bare_app, create_app
from service.audits import resolve
from service.audits.resolve import AuditRequest
from service.audits.verbs import create_audit
from service.database.unit_of_work import Ledger
from service.runs import specs
from service.settings import Settings
from spinal.analysis.layers import Pair
from spinal.analysis.locators import LOCATORS, Locator
from spinal.analysis.locators.profile import DepthProfile
from spinal.checkpoints.sources import SOURCES, Kind, Listed, Made, Pinned, Setting
from spinal.checkpoints.sources.base import own_files
from spinal.cli.main import main
from spinal.documents.comparison import Comparison
from spinal.documents.editions import PRESENT
from spinal.documents.policy import LimitRule
from spinal.documents.trace import Trace
from spinal.policy import shipped
from spinal.profile import Knob, MeasurementProfile
from spinal.prompts.formats import FILE_FORMATS, FileFormat
from spinal.prompts.gathered import Gathered
from spinal.prompts.load import load_prompts
from spinal.prompts.records import Entry
from spinal.report.formats import FORMATS, Format
from spinal.report.reported import Reported
from tests.conftest import EXAMPLES
from tests.support.fabricated import changed_pair
from tests.support.served import application

BODY = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
Spinal = Callable[..., str]


@pytest.fixture
def spinal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Spinal:
    """The command in this process, where the fakes are; returns stdout and stderr."""

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["spinal", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert ended.value.code == code, shown.err
        return shown.out + shown.err

    return run


@pytest.fixture
def audited(api: TestClient, drain: Callable[[], int]) -> Callable[[], str]:
    """Submits the bundled pair and carries it out; returns the audit's address."""

    def run() -> str:
        address = str(api.post("/v1/audits", json=BODY).json()["links"]["self"])
        drain()
        assert api.get(address).json()["state"] == "SUCCEEDED"
        return address

    return run


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A comparison in a file."""
    path = tmp_path / "comparison.json"
    path.write_text(changed_pair().compare().model_dump_json(by_alias=True))
    return path


# a source


class ShelfSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    board: str = "checkpoints"


class Shelf:
    """Checkpoints that lie in the examples, and are read as from elsewhere."""

    def __init__(self, setting: Setting) -> None:
        self._folder = EXAMPLES / setting.settings.board

    def pin(self, path: str) -> Pinned:
        found = sorted(file for file in (self._folder / path).iterdir() if file.is_file())
        files = [
            Listed(file.name, file.stat().st_size, str(file), sha256(file.read_bytes()).hexdigest()) for file in found
        ]
        return Pinned(f"shelf:{path}", str(self._folder / path), "r1", own_files(files), "shelf")

    @contextmanager
    def read(self, pinned: Pinned, listed: Listed, start: int = 0, end: int | None = None) -> Iterator[Iterator[bytes]]:
        yield iter([Path(listed.at).read_bytes()[start:end]])


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        SOURCES, "shelf", Kind("shelf", "shelf:NAME", lambda: Made(Shelf, ShelfSettings, ShelfSettings))
    )


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("model_sources", ['{"shelf": {"board": "checkpoints"}}'])
def test_a_source_is_found_by_the_api_its_report_and_its_contract(api: TestClient, drain: Callable[[], int]) -> None:
    # A child of the service knows the sources of the product alone: it is told what was brought.
    body = {**BODY, "candidate": "shelf:dpo-short", "reference": "shelf:sft"}
    audit = api.post("/v1/audits", json=body).json()
    drain()
    shown = api.get(f"/v1/audits/{audit['id']}/report", params={"format": "md"}).text
    assert "shelf:sft → shelf:dpo-short" in shown
    assert "shelf:NAME" in bare_app().openapi()["components"]["schemas"]["AuditIn"]["description"]
    refused = api.post("/v1/audits", json={"candidate": "nowhere:x"}).json()
    assert refused["code"] == "model_reference_invalid"
    assert "shelf:NAME" in refused["hint"]


@pytest.mark.model
@pytest.mark.usefixtures("shelf")
def test_a_source_is_found_by_the_command_line(spinal: Spinal, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"question number {n} about gardens?\n" for n in range(24)))
    quick = ("--max-tokens", "16", "--lens-positions", "2")
    said = spinal("trace", "shelf:sft", "--prompts", str(prompts), "--json", *quick)
    # What is said of the progress may follow.
    trace = Trace.model_validate(json.JSONDecoder().raw_decode(said)[0])
    assert (trace.model.source, trace.model.revision) == ("shelf:sft", "r1")


# a locator


def _first_block(pair: Pair) -> DepthProfile:
    weights = np.zeros(pair.reference.model.n_layers)
    weights[0] = 1.0
    return DepthProfile(weights, None)


@pytest.fixture
def first_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        LOCATORS, "first_block", Locator("first_block", "always the first", _first_block, rests_on_evidence=False)
    )


@pytest.mark.usefixtures("first_block")
def test_a_locator_is_found_by_the_api_its_report_and_its_contract(api: TestClient, audited: Callable[[], str]) -> None:
    address = audited()
    assert api.get(f"{address}/scores").json()["localization"]["first_block"]["peak"] == 1
    for name in ("html", "md"):
        assert "always the first" in api.get(f"{address}/report", params={"format": name}).text
    comparison = bare_app().openapi()["components"]["schemas"]["Comparison"]
    assert "first_block" in comparison["properties"]["localization"]["propertyNames"]["enum"]


@pytest.mark.usefixtures("first_block")
def test_a_locator_is_found_by_the_command_line(spinal: Spinal, tmp_path: Path) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(changed_pair().compare().model_dump_json(by_alias=True))
    shown = Comparison.model_validate_json(spinal("report", str(path), "--json"))
    assert shown.localization["first_block"].window80 == (1, 1)
    spinal("report", str(path), "-o", str(tmp_path / "report.md"))
    assert "always the first" in (tmp_path / "report.md").read_text()


def test_a_document_with_a_locator_of_another_release_is_read(stored: Path, spinal: Spinal, tmp_path: Path) -> None:
    raw = json.loads(stored.read_text())
    raw["localization"]["of_tomorrow"] = raw["localization"]["weights"]
    stored.write_text(json.dumps(raw))
    spinal("report", str(stored), "-o", str(tmp_path / "report.md"))
    assert "of tomorrow" in (tmp_path / "report.md").read_text()


# a rule


SUSPICION = LimitRule(
    name="suspicion", asks="did anything change?", value="damage.gap", bad="above", limit=0.0, severity="warn",
    decides="value",
)  # fmt: skip
SUSPECTED = "worth a look from 0.0"


def add_rule(monkeypatch: pytest.MonkeyPatch, rule: LimitRule) -> None:
    default = shipped.default_policy()
    more = default.model_copy(update={"rules": (*default.rules, rule)})
    monkeypatch.setattr(shipped, "shipped_policy", lambda _name: more)


@pytest.fixture
def suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    add_rule(monkeypatch, SUSPICION)


@pytest.mark.usefixtures("suspicion")
def test_a_rule_is_found_by_the_api_its_report_and_its_contract(api: TestClient, audited: Callable[[], str]) -> None:
    address = audited()
    audit = api.get(address).json()
    assert audit["verdict"] == "warn"
    assert SUSPECTED in audit["verdict_reasons"][0]
    assert api.get(f"{address}/scores").json()["verdict"]["outcome"] == "warn"
    assert SUSPECTED in api.get(f"{address}/report", params={"format": "md"}).text
    described = bare_app().openapi()["components"]["schemas"]["Verdict"]["description"]
    assert "`suspicion`: did anything change?" in described


@pytest.mark.usefixtures("suspicion")
def test_a_rule_decides_and_says_why() -> None:
    quiet = changed_pair().compare()
    assert quiet.damage.level == "none"
    assert quiet.verdict.outcome == "warn"
    assert SUSPECTED in quiet.verdict.reasons[0]
    assert quiet.verdict.decided_by == "suspicion"


# what is stored stays what it is


class Later(MeasurementProfile):
    """A profile of later code, with a knob for each stage."""

    depth_of_field: Annotated[int, Knob("trace", since=9)] = 3
    patience: Annotated[float, Knob("compare", since=9)] = 0.5


def test_a_knob_a_rule_and_a_role_more_make_no_trace_comparison_or_audit_another(
    api: TestClient, audited: Callable[[], str], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = audited()

    def stored() -> list[Any]:
        tables = ("runs", "traces", "comparisons", "audits")
        with ledger.read() as session:
            return [session.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all() for table in tables]

    def read() -> list[Any]:
        links = api.get(address).json()["links"]
        names = ("self", "scores", "report", "diff", "candidate_trace", "reference_trace")
        return [api.get(links[name], params={"format": "json"} if name == "report" else {}).json() for name in names]

    before = stored(), read()
    monkeypatch.setattr(specs, "MeasurementProfile", Later)
    monkeypatch.setattr(resolve, "SIDES", (*specs.SIDES, "witness"))
    add_rule(monkeypatch, SUSPICION)
    *others, diff, one, other = read()
    assert (stored(), others) == (before[0], before[1][:3])
    assert [one, other] == before[1][4:]
    # A comparison that is read alone is judged by the rules of today.
    assert diff["comparison"].pop("verdict") != before[1][3]["comparison"].pop("verdict")
    assert diff == before[1][3]
    # Asked again it is the same work: nothing is measured or compared anew, and the new audit has the new verdict.
    request = AuditRequest(
        models={role: BODY[role] for role in ("candidate", "reference")},
        prompt_set=BODY["prompt_set"],
        profile=Later(),
    )
    state = application(api).state
    settings, inspectors = state.settings, state.inspectors
    again = create_audit(
        ledger, settings, inspectors, tenant="default", request=request, idempotency_key=None, request_id=None,
        traceparent=None,
    )  # fmt: skip
    assert again.status == 201
    assert [len(table) for table in stored()] == [3, 2, 1, 2]
    shown = api.get(f"/v1/audits/{again.audit_id}").json()
    assert shown["results"] == before[1][0]["results"]
    assert (shown["verdict"], shown["fingerprint"]) == ("warn", before[1][0]["fingerprint"])
    knob = AuditRequest(models=request.models, prompt_set=request.prompt_set, profile=Later(patience=0.1))
    changed = resolve.resolve_request(ledger, settings, inspectors, "default", knob)
    assert {role: specs.spec_version(spec) for role, spec in changed.specs.items()} == {
        "candidate": PRESENT.since, "reference": PRESENT.since, "compare": 9,
    }  # fmt: skip


# a format


@pytest.fixture
def shout(monkeypatch: pytest.MonkeyPatch) -> None:
    def render(document: Reported) -> str:
        return f"LOOK AT {document.digest}\n"

    made = Format("shout", (".loud",), "text/x-shout", render, {"X-Volume": "11"})
    monkeypatch.setitem(FORMATS, "shout", made)


@pytest.fixture
def loud_api(api_settings: Settings, shout: None) -> Iterator[TestClient]:
    with TestClient(create_app(api_settings), raise_server_exceptions=False) as client:
        yield client


def test_a_format_is_found_by_the_api_and_its_contract(
    loud_api: TestClient, api: TestClient, audited: Callable[[], str]
) -> None:
    address = audited()
    found = loud_api.get(f"{address}/report", params={"format": "shout"})
    assert found.text.startswith("LOOK AT ")
    assert found.headers["Content-Type"].startswith("text/x-shout")
    assert found.headers["X-Volume"] == "11"
    refused = loud_api.get(f"{address}/report", params={"format": "whisper"}).json()
    assert refused["detail"] == f"query/format: Input should be {', '.join(map(repr, [*FORMATS][:-1]))} or 'shout'"
    report: dict[str, Any] = loud_api.get("/openapi.json").json()["paths"]["/v1/audits/{audit_id}/report"]["get"]
    assert report["parameters"][1]["schema"]["enum"] == [*FORMATS]
    assert "text/x-shout" in report["responses"]["200"]["content"]


@pytest.mark.usefixtures("shout")
def test_a_format_is_found_by_the_command_line(stored: Path, spinal: Spinal, tmp_path: Path) -> None:
    spinal("report", str(stored), "-o", str(tmp_path / "report.loud"))
    assert (tmp_path / "report.loud").read_text().startswith("LOOK AT ")
    assert ".loud" in spinal("report", str(stored), "-o", str(tmp_path / "report.pdf"), code=2)


# a kind of prompt file


def test_a_format_of_prompt_files_is_tried_before_plain_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    numbered = FileFormat(
        "numbered",
        lambda source: source.first.startswith("1. "),
        lambda source: Gathered([Entry(line.partition(". ")[2]) for line in source.lines if line]),
    )
    plain = FILE_FORMATS["text"]
    monkeypatch.delitem(FILE_FORMATS, "text")
    monkeypatch.setitem(FILE_FORMATS, "numbered", numbered)
    monkeypatch.setitem(FILE_FORMATS, "text", plain)
    path = tmp_path / "prompts.txt"
    path.write_text("1. how?\n2. why?\n")
    assert load_prompts(str(path)).prompts == ("how?", "why?")
