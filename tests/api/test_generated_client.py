"""A client that a generator makes of the contract, against a real service: submit, wait, scores, reports, errors."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr

from service.contract import ROOT
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from tests.support.served import at_work, served

NAME = "generated_spinal"
Drain = Callable[[], int]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated")
    generator = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(ROOT / "openapi.yaml"),
                 "--output-path", str(folder / NAME), "--meta", "none"]  # fmt: skip
    done = subprocess.run(generator, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    # Whose media types the generator does not know: their text is in the response's content.
    omitted = [line for line in done.stdout.splitlines() if line.startswith("WARNING")]
    assert all("report.junit" in line or "report.gitlab-metrics" in line for line in omitted), omitted
    return folder


@pytest.fixture
def generated(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """``generated("api.audits.get_audit")`` -> that module of the client."""
    monkeypatch.syspath_prepend(made)
    yield lambda name: import_module(f"{NAME}.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def test_submit_wait_scores_and_report(
    generated: Callable[[str], Any], api_settings: Settings, ledger: Ledger, drain: Drain
) -> None:
    secured = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("pepper")})
    with ledger.begin() as session:
        key = create_key(session, tenant="t", scopes=("read", "write"), pepper="pepper")
    models, client = generated("models"), generated("client")
    with served(secured) as address, at_work(drain):
        asked = {"client": client.AuthenticatedClient(base_url=address, token=key)}

        def call(name: str, *arguments: Any, **more: Any) -> Any:
            return generated(f"api.{name}").sync_detailed(*arguments, **asked, **more).parsed

        body = models.AuditIn(candidate="local:dpo-short", reference="local:sft", prompt_set="hh-harmless-64")
        audit = call("audits.submit_audit", body=body)
        assert isinstance(audit, models.AuditOut)
        while audit.state not in (models.AuditOutState.SUCCEEDED, models.AuditOutState.FAILED):
            audit = call("audits.get_audit", audit.id, wait=30)
        assert audit.state == models.AuditOutState.SUCCEEDED
        scores = call("audits.get_scores", audit.id)
        assert isinstance(scores, models.ScoresOut)
        assert scores.verdict.outcome == audit.verdict

        # reports of an audit, of a trace and of a series
        report = call("audits.get_report_json", audit.id)
        assert isinstance(report, models.Comparison)
        assert report.verdict.outcome == scores.verdict.outcome
        assert call("audits.get_report_html", audit.id).startswith("<!doctype html>")
        assert call("audits.get_report_md", audit.id).startswith("# ")
        assert call("audits.get_report_sarif", audit.id)["version"] == "2.1.0"
        formats = models.GetReportFormat
        for chosen, begins in (("md", "# "), ("html", "<!doctype"), ("json", "{"), ("junit", "<?xml")):
            assert call("audits.get_report", audit.id, format_=formats(chosen)).startswith(begins), chosen
        alone = call("audits.submit_audit", body=models.AuditIn(candidate="local:sft", prompt_set="hh-harmless-64"))
        while alone.state != models.AuditOutState.SUCCEEDED:
            alone = call("audits.get_audit", alone.id, wait=30)
        assert isinstance(call("audits.get_report_json", alone.id), models.Trace)
        first = models.MemberIn(step=1, model="local:dpo-short")
        series = call("series.create_series", body=models.SeriesIn(reference="local:sft", members=[first]))
        assert isinstance(series, models.SeriesOut)
        while series.members.waiting:
            series = call("series.get_series", series.id, wait=30)
        document = call("series.get_series_report_json", series.id)
        assert isinstance(document, models.Series)
        assert [member.step for member in document.members] == [1]
        assert call("series.get_series_report_md", series.id).startswith("# ")

        # what is refused is a Problem, whatever the status
        problems = {
            "audit_not_found": call("audits.get_report_json", uuid4()),
            "no_verdict": call("audits.get_report_sarif", alone.id),
            "model_not_found": call("audits.submit_audit", body=models.AuditIn(candidate="local:nothing")),
            "series_not_found": call("series.get_series_report_html", UUID(int=0)),
        }
        for code, problem in problems.items():
            assert isinstance(problem, models.Problem), code
            assert (problem.code, bool(problem.hint)) == (code, True)
        unknown = generated("api.audits.list_audits").sync_detailed(
            client=client.AuthenticatedClient(base_url=address, token="spk_x_y")
        )
        assert isinstance(unknown.parsed, models.Problem)
        assert unknown.parsed.code == "unauthorized"
