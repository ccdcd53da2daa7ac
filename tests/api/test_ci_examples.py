"""``examples/ci`` with the command itself, against a service behind a socket: each file leaves what it promises."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import SecretStr

from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.settings import Settings
from spinal.cli.gate import exit_code
from spinal.client import Client
from spinal.errors import ExitCode
from tests.support.ci_files import REAL, Runner, Script, action, argo, gitlab
from tests.support.served import at_work, served
from tests.support.waiting import until

SYSTEMS: dict[str, Callable[..., Script]] = {"github": action, "gitlab": gitlab, "argo": argo}
WRITTEN = {
    "github": ("spinal-reports/spinal.html", "spinal-reports/spinal.xml", "spinal-reports/spinal.sarif"),
    "gitlab": ("spinal-reports/report.html", "spinal-reports/junit.xml", "spinal-reports/annotations.json",
               "spinal-reports/metrics.txt"),
    "argo": ("out/report.html", "out/junit.xml", "out/audit.json"),
}  # fmt: skip


@pytest.fixture
def values(api_settings: Settings, ledger: Ledger) -> Iterator[dict[str, str]]:
    """What the systems are given for a pair of bundled checkpoints, on a service that asks for keys."""
    with ledger.begin() as session:
        key = create_key(session, tenant="ci", scopes=("read", "write"), pepper="p")
    with served(api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("p")})) as url:
        yield {"candidate": "local:dpo-short", "reference": "local:sft", "prompt-set": "hh-harmless-64", "server": url,
               "api-key": key, "wait": "2m"}  # fmt: skip


def outside(system: str, values: dict[str, str]) -> dict[str, str]:
    """What GitLab sets from the project's own variables, and not from the file."""
    return {"SPINAL_SERVER": values["server"], "SPINAL_API_KEY": values["api-key"]} if system == "gitlab" else {}


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_job_ends_by_the_verdict_and_leaves_its_reports(
    tmp_path: Path, values: dict[str, str], drain: Callable[[], int], system: str
) -> None:
    runner = Runner(tmp_path, REAL)
    with at_work(drain):
        ran = runner.run(SYSTEMS[system](values), **outside(system, values))
    with Client(values["server"], values["api-key"]) as client:
        (audit,) = client.audits()
    assert audit["state"] == "SUCCEEDED", ran.err
    assert ran.code == exit_code(audit["verdict"], "fail"), ran.err
    for name in WRITTEN[system]:
        file = runner.folder / name
        assert file.stat().st_size > 0
        if file.suffix == ".xml":
            assert ElementTree.parse(file).getroot().tag in ("testsuites", "testsuite")
        elif file.suffix in (".json", ".sarif"):
            json.loads(file.read_text())
    if system == "github":
        assert runner.told() == {
            "verdict": audit["verdict"], "audit-id": audit["id"], "exit-code": str(ran.code),
        }  # fmt: skip
        assert audit["labels"] == {"run": "7"}
        assert "local:dpo-short" in runner.summary.read_text()
    if system == "argo":
        assert json.loads((runner.folder / "out/audit.json").read_text())["id"] == audit["id"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_policy_in_a_file_fails_the_job(
    tmp_path: Path, values: dict[str, str], drain: Callable[[], int], system: str
) -> None:
    runner = Runner(tmp_path, REAL)
    rule = {"name": "impossible", "value": "damage.nll_change", "bad": "above", "limit": -1000.0, "severity": "fail"}
    (runner.folder / "release.yaml").write_text(json.dumps({"name": "acme-release/1", "rules": [rule]}))
    with at_work(drain):
        ran = runner.run(SYSTEMS[system](values | {"policy": "release.yaml"}), **outside(system, values))
    assert ran.code == ExitCode.FAILED, ran.err
    with Client(values["server"], values["api-key"]) as client:
        (audit,) = client.audits()
    assert (audit["verdict"], audit["policy"]["name"]) == ("fail", "acme-release/1")


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_mistake_ends_the_job_at_once_with_its_cause(tmp_path: Path, values: dict[str, str], system: str) -> None:
    runner = Runner(tmp_path, REAL)
    ran = runner.run(SYSTEMS[system](values | {"candidate": "local:nothing"}), **outside(system, values))
    assert ran.code == ExitCode.USAGE
    assert "nothing" in ran.err
    assert values["api-key"] not in ran.out + ran.err


@pytest.mark.parametrize("system", ["github", "argo"])
def test_a_job_that_is_ended_cancels_its_audit(tmp_path: Path, values: dict[str, str], system: str) -> None:
    """No worker takes it, so that it would wait for ever."""
    runner = Runner(tmp_path, REAL)
    running = runner.start(SYSTEMS[system](values))
    with Client(values["server"], values["api-key"]) as client:
        until(lambda: list(client.audits()), "the audit to be accepted", timeout=60.0)
        until(lambda: _waits(running.pid), "the command to wait", timeout=60.0)
        os.kill(running.pid, signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        (audit,) = client.audits()
    assert audit["state"] == "CANCELLED", said
    assert running.returncode not in (ExitCode.PASS, ExitCode.FAILED, ExitCode.INCONCLUSIVE)


def _waits(pid: int) -> bool:
    """Whether the command, which the shell started or became, is there."""
    found = [pid]
    for one in found:
        found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return any(b"spinal.cli.main" in Path(f"/proc/{one}/cmdline").read_bytes() for one in found)
