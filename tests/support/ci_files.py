"""The files of ``examples/ci`` as the systems read them: every script in them, and the environment that it is given."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.places import EXAMPLES, ROOT

FOLDER = EXAMPLES / "ci"
ACTION, WORKFLOW = FOLDER / "github/spinal-audit/action.yml", FOLDER / "github/release-gate.yml"
GITLAB, ARGO = FOLDER / "gitlab/spinal.gitlab-ci.yml", FOLDER / "argo/spinal-audit.yaml"
OF_GITHUB = re.compile(r"\$\{\{\s*([\w.-]+)\s*\}\}")
OF_ARGO = re.compile(r"\{\{([\w.-]+)\}\}")
CI_VARIABLES = {"GITHUB_RUN_ID": "7", "CI_PIPELINE_ID": "7", "GITHUB_ACTIONS": "true", "CI": "true"}


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Script:
    """Shell text of one step, and how its system starts it."""

    file: Path
    text: str
    environment: Mapping[str, str] = field(default_factory=dict)
    shell: tuple[str, ...] = ("sh", "-e", "-c")


def scripts(values: Mapping[str, str] | None = None) -> Iterator[Script]:
    """Every script, its system's expressions resolved from ``values`` by the name of the input (defaults apply)."""
    yield action(values or {})
    yield gitlab(values or {})
    yield argo(values or {})
    for job in read(WORKFLOW)["jobs"].values():
        for step in job["steps"]:
            if "run" in step:
                yield Script(WORKFLOW, step["run"], dict.fromkeys(step.get("env", {}), "x"))


def action(values: Mapping[str, str]) -> Script:
    members = read(ACTION)
    known = {name: values.get(name, told.get("default", "")) for name, told in members["inputs"].items()}
    (step,) = members["runs"]["steps"]
    assert step["shell"] == "sh"
    resolved = {
        name: OF_GITHUB.sub(lambda found: known[found[1].removeprefix("inputs.")], text)
        for name, text in step["env"].items()
    }
    return Script(ACTION, step["run"], resolved)


def gitlab(values: Mapping[str, str]) -> Script:
    job = read(GITLAB)["spinal-audit"]
    given = {f"SPINAL_{name.upper().replace('-', '_')}": value for name, value in values.items()}
    return Script(GITLAB, "\n".join(job["script"]), job["variables"] | given)


def argo(values: Mapping[str, str]) -> Script:
    (template,) = read(ARGO)["spec"]["templates"]
    known = {one["name"]: values.get(one["name"], one.get("value", "")) for one in template["inputs"]["parameters"]}
    container = template["container"]
    resolved = {
        one["name"]: OF_ARGO.sub(lambda found: known[found[1].removeprefix("inputs.parameters.")], one["value"])
        if "value" in one
        else values["api-key"]
        for one in container["env"]
    }
    (text,) = container["args"]
    return Script(ARGO, text, resolved, tuple(container["command"]))


class Runner:
    """A machine of such a system: a folder to work in, and the commands of its image."""

    def __init__(self, folder: Path, spinal: str) -> None:
        """``spinal`` is the text of what stands in the image under this name."""
        self.folder, self.home = folder / "work", folder / "image"
        for made in (self.folder, self.home):
            made.mkdir()
        command = self.home / "spinal"
        command.write_text(spinal)
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        self.outputs = folder / "outputs"
        self.summary = folder / "summary"
        for file in (self.outputs, self.summary):
            file.touch()

    def start(self, script: Script, **further: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": os.pathsep.join([str(self.home), str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
            "HOME": str(self.home),
            "GITHUB_OUTPUT": str(self.outputs),
            "GITHUB_STEP_SUMMARY": str(self.summary),
        }
        own = str(self.folder / "out")
        given = {name: value.replace("/tmp/spinal", own) for name, value in script.environment.items()}
        return subprocess.Popen(
            [*script.shell, script.text], cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment | CI_VARIABLES | given | further, start_new_session=True,
        )  # fmt: skip

    def run(self, script: Script, **further: str) -> "Ran":
        running = self.start(script, **further)
        out, err = running.communicate(timeout=180)
        return Ran(running.returncode, out, err)

    def told(self) -> dict[str, str]:
        """Outputs of a step of GitHub Actions."""
        return dict(line.split("=", 1) for line in self.outputs.read_text().splitlines())


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


REAL = f"""#!/bin/sh
PYTHONPATH='{ROOT}' exec '{sys.executable}' -m spinal.cli.main "$@"
"""
"""The command itself, as an image holds it."""
