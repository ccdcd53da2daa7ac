"""Reports for pipelines as a pipeline asks for them: a process, its exit code, and the files that it leaves."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from spinal.documents.comparison import Comparison
from spinal.report import render
from spinal.report.formats import FORMATS
from spinal.report.formats.format import Reader
from tests.support.fabricated import trace
from tests.support.verdicts import EVERY, PASSED, WARNED, verdict, with_verdict

AUDIT = "/v1/audits/00000000-0000-4000-8000-000000000001"
Command = Callable[..., subprocess.CompletedProcess[str]]
VARIABLES = ("GITHUB_STEP_SUMMARY", "CI_JOB_URL", "SPINAL_API_KEY", "SPINAL_SERVER")
PROBLEM = {"type": "x", "title": "Out of memory", "status": 500, "code": "out_of_memory", "detail": "no memory left"}


def spinal(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-m", "spinal.cli.main", *arguments], capture_output=True, text=True, check=False,
        env=kept | environment,
    )  # fmt: skip


@pytest.fixture
def stored(tmp_path: Path) -> str:
    path = tmp_path / "comparison.json"
    path.write_text(render(with_verdict(verdict("fail", EVERY)), "json"))
    return str(path)


class Service(BaseHTTPRequestHandler):
    """As much of the service as an audit needs: accepts it, says how it ended, renders its report."""

    ends: ClassVar[dict[str, Any]]
    document: ClassVar[Comparison]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, json.dumps(self._audit("QUEUED")))

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if not asked.path.endswith("/report"):
            self._answer(200, json.dumps(self._audit("QUEUED") | self.ends))
            return
        query = {name: values[0] for name, values in parse_qs(asked.query).items()}
        reader = Reader("warn" if query.get("fail_on") == "warn" else "fail", {"report": "http://spinal.example/x"})
        made = FORMATS[query.get("format", "json")]
        self._answer(200, made.written(self.document, reader), made.media_type)

    def _audit(self, state: str) -> dict[str, Any]:
        progress = {"phase": "starting", "fraction": 0.0}
        address = {"self": AUDIT, "report": f"{AUDIT}/report"}
        return {
            "id": AUDIT.rpartition("/")[2], "state": state, "candidate": "local:dpo", "reference": "local:sft",
            "verdict": None, "verdict_reasons": [], "error": None,
            "progress": progress, "links": address,
        }  # fmt: skip

    def _answer(self, status: int, text: str, media_type: str = "application/json") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        # As reports of the service say that they are none of a login page.
        self.send_header("Cache-Control", "immutable")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the test says what it expects."""


@pytest.fixture
def service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def wait(service: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return spinal("wait", AUDIT.rpartition("/")[2], "--server", service, "--wait", "30s", *options, **environment)


def audit(service: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    pair = ("local:dpo", "--reference", "local:sft", "--server", service, "--wait", "30s")
    return spinal("audit", *pair, *options, **environment)


def test_a_stored_document_is_written_in_every_format(stored: str, tmp_path: Path) -> None:
    asked = {name: tmp_path / f"out.{name}" for name in FORMATS}
    options = [part for name, path in asked.items() for part in ("-o", f"{name}={path}")]
    done = spinal("report", stored, *options, CI_JOB_URL="https://gitlab.example/a/-/jobs/1")
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_size for path in asked.values())
    assert "<testsuites" in asked["junit"].read_text()
    assert json.loads(asked["sarif"].read_text())["version"] == "2.1.0"
    assert "gitlab.example/a/-/jobs/1/artifacts/browse" in asked["gitlab-annotations"].read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_an_ending_asks_for_its_format(stored: str, tmp_path: Path) -> None:
    names = ("a.xml", "a.sarif", "b.sarif.json", "a.prom", "a=b.md")
    done = spinal("report", stored, *[part for name in names for part in ("-o", str(tmp_path / name))])
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "b.sarif.json").read_text() == (tmp_path / "a.sarif").read_text()
    assert (tmp_path / "a=b.md").read_text().startswith("# ")


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("{}/x.pdf", "unknown extension '.pdf'"),
        ("{}/step_summary", "--github"),
        ("junit=", "no file"),
        ("jnuit={}/x", "-o FORMAT=PATH with FORMAT one of json, html, md, junit"),
        ("junit={}/none/x", "no folder"),
        ("junit={}", "cannot be written"),
        ("junit=/dev/null", "cannot be written"),
        ("{0}/../{1}/first.md", "asked for twice"),
        (f"{{}}/{'x' * 300}.xml", "File name too long"),
        ("gitlab-annotations={}/x", "no address to link to"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(output: str, expected: str, stored: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = spinal("report", stored, "-o", str(tmp_path / "first.md"), "-o", output.format(tmp_path, tmp_path.name))
    assert done.returncode == 2, done.stderr
    assert expected in done.stderr
    assert sorted(tmp_path.iterdir()) == before, "neither this file nor the one before it"


def test_two_formats_do_not_overwrite_each_other(stored: str, tmp_path: Path) -> None:
    done = spinal("report", stored, "-o", f"junit={tmp_path / 'x'}", "-o", f"sarif={tmp_path / 'x'}")
    assert done.returncode == 2
    assert "asked for twice" in done.stderr


def test_a_name_may_be_as_long_as_a_name_can_be(stored: str, tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.xml"
    done = spinal("report", stored, "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert path.exists()


def test_no_way_to_the_step_summary_writes_over_it(stored: str, tmp_path: Path) -> None:
    step = tmp_path / "step.md"
    step.write_text("# earlier step\n")
    other = tmp_path / "link"
    other.symlink_to(tmp_path)
    for way in (step, tmp_path / ".." / tmp_path.name / "step.md", other / "step.md"):
        done = spinal("report", stored, "-o", str(way), GITHUB_STEP_SUMMARY=str(step))
        assert done.returncode == 2, way
        assert "overwrite the step summary" in done.stderr
    assert step.read_text() == "# earlier step\n"


def test_a_trace_is_refused_where_a_verdict_is_told(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(render(trace("sft", 4, 8), "json"))
    done = spinal("report", str(path), "-o", str(tmp_path / "x.md"), "-o", str(tmp_path / "x.xml"))
    assert done.returncode == 2
    assert "a trace has no verdict" in done.stderr
    assert not (tmp_path / "x.md").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("trace", "nowhere"),
        ("audit", "local:dpo", "--wait", "1s", "--server", "http://127.0.0.1:9"),
    ],
)
def test_where_there_will_be_no_verdict_it_is_refused_before_any_work(command: tuple[str, ...], tmp_path: Path) -> None:
    done = spinal(*command, "-o", str(tmp_path / "x.xml"))
    assert done.returncode == 2
    assert "a trace has no verdict" in done.stderr


@pytest.mark.parametrize("command", [("report", "{}"), ("compare", "nowhere", "nowhere")])
def test_github_outside_of_a_step_is_refused_before_any_work(command: tuple[str, ...], stored: str) -> None:
    done = spinal(*(part.format(stored) for part in command), "--github")
    assert done.returncode == 2
    assert "GITHUB_STEP_SUMMARY is not set" in done.stderr


def test_a_comparison_that_cannot_be_made_reaches_junit_as_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    done = spinal("compare", str(tmp_path / "none"), str(tmp_path / "none"), "-o", str(path))
    assert done.returncode not in (0, 1, 5)
    assert 'errors="1"' in path.read_text()
    assert 'failures="0"' in path.read_text()


def test_a_step_of_github_gets_its_summary_and_annotations(stored: str, tmp_path: Path) -> None:
    step = tmp_path / "step_summary_2"
    step.write_text("# earlier step\n")
    done = spinal("report", stored, "--github", "--json", GITHUB_STEP_SUMMARY=str(step))
    assert done.returncode == 0, done.stderr
    assert step.read_text().startswith("# earlier step\n")
    assert "**FAIL**" in step.read_text()
    assert done.stderr.startswith("::error title=fail%3A nll_change::")
    json.loads(done.stdout)


@pytest.mark.parametrize("command", [audit, wait])
def test_an_audit_writes_its_reports_and_tells_github(command: Command, service: str, tmp_path: Path) -> None:
    Service.ends = {"state": "SUCCEEDED", "verdict": "warn"}
    Service.document = with_verdict(verdict("warn", (WARNED, PASSED)))
    step, path = tmp_path / "step", tmp_path / "x.xml"
    done = command(service, "-o", str(path), "--github", "--fail-on", "warn", GITHUB_STEP_SUMMARY=str(step))
    assert done.returncode == 1, done.stderr
    assert 'failures="1"' in path.read_text(), done.stderr
    assert f"[report](<{service}{AUDIT.replace('/v1/', '/ui/')}/report>)" in step.read_text()
    assert "::error title=warn%3A length::" in done.stderr
    assert command(service, "-o", str(path)).returncode == 0
    assert 'failures="0"' in path.read_text()


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        ({"state": "FAILED", "error": PROBLEM}, "no memory left"),
        ({"state": "CANCELLED"}, "the audit was cancelled"),
    ],
)
@pytest.mark.parametrize("command", [audit, wait])
def test_an_audit_that_ends_without_a_verdict_is_an_error(
    command: Command, ends: dict[str, Any], told: str, service: str, tmp_path: Path
) -> None:
    Service.ends = ends
    step, path = tmp_path / "step", tmp_path / "x.xml"
    done = command(service, "-o", str(path), "-o", str(tmp_path / "x.sarif"), "--github", GITHUB_STEP_SUMMARY=str(step))
    assert done.returncode == 3, done.stderr
    assert 'errors="1"' in path.read_text()
    assert told in path.read_text()
    assert not (tmp_path / "x.sarif").exists()
    assert "## Not evaluated: local:sft → local:dpo" in step.read_text()


@pytest.mark.parametrize("command", [audit, wait])
def test_a_time_out_is_an_error(command: Command, service: str, tmp_path: Path) -> None:
    Service.ends = {}
    path = tmp_path / "x.xml"
    done = command(service, "-o", str(path), "--wait", "1s")
    assert done.returncode == 4, done.stderr
    assert 'errors="1"' in path.read_text()


def test_an_audit_of_one_model_has_no_verdict_to_wait_for(service: str, tmp_path: Path) -> None:
    Service.ends = {"reference": None}
    done = wait(service, "-o", str(tmp_path / "x.xml"))
    assert done.returncode == 2
    assert "a trace has no verdict" in done.stderr
