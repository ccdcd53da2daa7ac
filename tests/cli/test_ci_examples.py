"""What ``examples/ci`` makes of the command's answers: exit codes, outputs, signals, and inputs that mean harm."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.ci_files import (
    ACTION,
    ARGO,
    FOLDER,
    GITLAB,
    WORKFLOW,
    Runner,
    Script,
    action,
    argo,
    gitlab,
    read,
    scripts,
)
from tests.support.waiting import until

VALUES = {"candidate": "local:a", "reference": "local:b", "server": "http://audits.example", "api-key": "spk_x_y",
          "image": "image"}  # fmt: skip
SYSTEMS = {"github": action, "gitlab": gitlab, "argo": argo}
PRETENDS = """#!/bin/sh
for argument in "$@"; do printf '%s\\n' "$argument" >> "$HOME/arguments"; done
echo "audit 0123 QUEUED" >&2
echo '::error title=SPINAL::the candidate is damaged'
[ "$ENDS_WITH" -gt 5 ] || echo '{"id": "0123", "verdict": "fail"}'
exit "$ENDS_WITH"
"""
WAITS = """#!/bin/sh
trap 'echo cancelled >> "$HOME/said"; exit 130' TERM
echo started >> "$HOME/said"
while :; do sleep 0.1; done
"""


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def arguments(runner: Runner) -> list[str]:
    return (runner.home / "arguments").read_text().splitlines()


@pytest.mark.parametrize("code", range(6))
def test_a_job_ends_as_the_command_does(tmp_path: Path, system: str, code: int) -> None:
    runner = Runner(tmp_path, PRETENDS)
    ran = runner.run(SYSTEMS[system](VALUES), ENDS_WITH=str(code))
    assert ran.code == code, ran.err
    given = arguments(runner)
    assert given[:5] == ["audit", "--reference", "local:b", "--wait", "30m"]
    # Last and behind all options: what begins with a dash is no option, which could send the key elsewhere.
    assert given[-2:] == ["--", "local:a"]
    assert "--cancel-on-interrupt" in given
    # Options that nobody gave are not there, instead of being empty.
    assert "" not in given
    assert not {"--policy", "--prompt-set"} & set(given)


def test_an_action_tells_what_came_and_shows_the_rest(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRETENDS)
    ran = runner.run(action(VALUES), ENDS_WITH="1")
    assert runner.told() == {"verdict": "fail", "audit-id": "0123", "exit-code": "1"}
    assert "::error title=SPINAL::the candidate is damaged" in ran.out + ran.err
    assert set(runner.told()) == set(read(ACTION)["outputs"])


def test_an_action_without_an_audit_tells_nothing_of_it(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRETENDS.replace("-gt 5", "-gt 2"))
    assert runner.run(action(VALUES), ENDS_WITH="3").code == 3
    assert runner.told() == {"verdict": "", "audit-id": "", "exit-code": "3"}


def test_an_action_may_let_an_inconclusive_verdict_pass_and_nothing_else(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRETENDS)
    lenient = action(VALUES | {"inconclusive": "warn"})
    codes = {code: runner.run(lenient, ENDS_WITH=str(code)).code for code in range(6)}
    assert codes == {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 0}
    assert "::warning title=SPINAL::" in runner.run(lenient, ENDS_WITH="5").out


def test_an_action_without_the_command_says_so(tmp_path: Path) -> None:
    runner = Runner(tmp_path, PRETENDS)
    (runner.home / "spinal").unlink()
    for command in ("mkdir", "python3", "sh"):
        (runner.home / command).symlink_to(f"/usr/bin/{command}")
    ran = runner.run(action(VALUES), PATH=str(runner.home))
    assert ran.code == 2
    assert "::error title=SPINAL::there is no spinal command" in ran.out


HOSTILE = 'x\'; touch broken; "$(touch broken)" `touch broken` --json $HOME * \\'


def test_an_input_is_text_and_no_command(tmp_path: Path, system: str) -> None:
    runner = Runner(tmp_path, PRETENDS)
    values = dict.fromkeys(("candidate", "reference", "policy", "prompt-set", "wait"), HOSTILE)
    assert runner.run(SYSTEMS[system](VALUES | values), ENDS_WITH="0").code == 0
    assert not list(runner.folder.rglob("broken"))
    given = arguments(runner)
    for option in ("--", "--wait", "--reference", "--policy", "--prompt-set"):
        assert given[given.index(option) + 1] == HOSTILE


@pytest.mark.parametrize("script", list(scripts(VALUES)), ids=lambda script: script.file.name)
def test_no_expression_of_the_system_stands_in_a_script(script: Script) -> None:
    assert "${{" not in script.text
    assert "{{" not in script.text
    assert subprocess.run(["sh", "-n"], input=script.text, text=True, check=False).returncode == 0


def test_the_key_is_no_argument(tmp_path: Path, system: str) -> None:
    runner = Runner(tmp_path, PRETENDS)
    ran = runner.run(SYSTEMS[system](VALUES), ENDS_WITH="0")
    assert VALUES["api-key"] not in " ".join([*arguments(runner), ran.out, ran.err])


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_whoever_ends_the_job_ends_the_command(tmp_path: Path, name: signal.Signals) -> None:
    """GitHub signals the shell of a step alone, and Argo the first process of a pod: the command has to hear of it."""
    for number, script in enumerate((action(VALUES), argo(VALUES))):
        if script.file == ARGO and name == signal.SIGINT:
            continue  # Kubernetes sends SIGTERM
        folder = tmp_path / str(number)
        folder.mkdir()
        runner = Runner(folder, WAITS)
        said = runner.home / "said"
        running = runner.start(script)
        try:
            until(said.exists, "the command to start")
            os.kill(running.pid, name)
            running.communicate(timeout=30)
            assert running.returncode == 130
        finally:
            # Also what a shell that did not pass the signal on has left behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        assert said.read_text().splitlines() == ["started", "cancelled"]


# shape


def test_a_workflow_gives_the_action_what_it_needs_and_reads_what_it_tells() -> None:
    action_file, workflow = read(ACTION), read(WORKFLOW)
    assert action_file["runs"]["using"] == "composite"
    uses = {step["uses"]: step for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step}
    given = uses["./examples/ci/github/spinal-audit"]["with"]
    required = {name for name, told in action_file["inputs"].items() if told.get("required")}
    assert required <= set(given) <= set(action_file["inputs"])
    assert all(told["description"] for told in (action_file["inputs"] | action_file["outputs"]).values())
    text = WORKFLOW.read_text()
    assert set(re.findall(r"steps\.spinal\.outputs\.([\w-]+)", text)) <= set(action_file["outputs"])
    # YAML reads the key `on` as true.
    asked = workflow[True]["workflow_dispatch"]["inputs"]
    assert set(re.findall(r"\{\{ inputs\.([\w-]+)", text)) == set(asked)
    step_ids = {step["id"] for step in action_file["runs"]["steps"] if "id" in step}
    for name, told in action_file["outputs"].items():
        assert told["value"] == f"${{{{ steps.audit.outputs.{name} }}}}"
    assert step_ids == {"audit"}
    # Longer than the longest wait, so that the command and not the system ends it.
    assert workflow["jobs"]["audit"]["timeout-minutes"] > int(given["wait"].removesuffix("m"))
    assert workflow["permissions"] == {"contents": "read", "security-events": "write"}


def test_a_workflow_uploads_what_the_action_writes() -> None:
    reports = read(ACTION)["inputs"]["reports"]["default"]
    steps = read(WORKFLOW)["jobs"]["audit"]["steps"]
    uploads = {step["uses"].partition("@")[0]: step for step in steps if "upload" in step.get("uses", "")}
    assert uploads["github/codeql-action/upload-sarif"]["with"]["sarif_file"] == f"{reports}/spinal.sarif"
    assert uploads["actions/upload-artifact"]["with"]["path"] == reports
    # Also after a failed verdict, of which they tell.
    assert all("!cancelled()" in step["if"] for step in uploads.values())


def test_a_pipeline_of_gitlab_keeps_the_reports_that_are_written_and_warns_of_what_is_inconclusive() -> None:
    job = read(GITLAB)["spinal-audit"]
    script = gitlab(VALUES).text
    assert set(job["artifacts"]["reports"]) == {"junit", "annotations", "metrics"}
    for path in job["artifacts"]["reports"].values():
        assert re.search(rf"-o (gitlab-\w+=)?{re.escape(path)}\b", script), path
    assert job["artifacts"]["when"] == "always"
    assert job["allow_failure"] == {"exit_codes": 5}
    assert job["retry"] == {"max": 1, "exit_codes": [3, 4]}
    assert job["rules"][0]["when"] == "never"
    assert int(job["timeout"].split()[0]) > int(job["variables"]["SPINAL_WAIT"].removesuffix("m"))
    # Every variable of the script is one of the job, of the system, or of those that the file asks for.
    used = set(re.findall(r"\$(\w+)", script))
    assert used <= {*job["variables"], "SPINAL_CANDIDATE", "SPINAL_REFERENCE", "CI_PIPELINE_ID"}


def test_a_template_of_argo_tries_again_only_what_may_go_otherwise() -> None:
    spec: dict[str, Any] = read(ARGO)["spec"]
    (template,) = spec["templates"]
    assert template["name"] == spec["entrypoint"]
    assert spec["arguments"]["parameters"] == template["inputs"]["parameters"]
    expression = template["retryStrategy"]["expression"]
    assert {int(code) for code in re.findall(r"\d+", expression)} == {3, 4}
    assert expression == "asInt(lastRetry.exitCode) in [3, 4]"
    # Argo takes these as text alone.
    assert all(isinstance(value, str) for value in (template["retryStrategy"]["limit"], *(
        one.get("value", "") for one in template["inputs"]["parameters"])))  # fmt: skip
    container = template["container"]
    known = {f"inputs.parameters.{one['name']}" for one in template["inputs"]["parameters"]}
    asked = {found for one in container["env"] for found in re.findall(r"\{\{([^}]*)\}\}", one.get("value", ""))}
    assert asked == known - {"inputs.parameters.image"}
    assert 'exec spinal audit "$@"' in container["args"][0]
    out = next(one["value"] for one in container["env"] if one["name"] == "OUT")
    written = {f"{out}/{name}" for name in re.findall(r'\$OUT/([\w.]+)"', container["args"][0])}
    kept = [one["valueFrom"] for one in template["outputs"]["parameters"]] + template["outputs"]["artifacts"]
    assert {one["path"] for one in kept} == written
    # What a command that wrote no report leaves out does not fail the step once more.
    assert all("default" in one or one.get("optional") for one in kept)


def test_every_file_is_described_and_read_by_these_tests() -> None:
    described = (FOLDER / "README.md").read_text()
    files = {path for path in FOLDER.rglob("*") if path.suffix in (".yml", ".yaml")}
    assert files == {ACTION, WORKFLOW, GITLAB, ARGO}
    for path in files:
        assert path.name in described
