"""Whatever is started with a setting that is wrong ends with one line that names it, and no secret, wherever that is
read. Which settings and how: ``tests/unit/test_addresses.py``."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import spinal.cli.main
import worker.celery_app
import worker.dispatcher
from service.app import create_app
from service.serving import main as serve
from spinal.errors import ExitCode
from tests.conftest import ROOT

PEPPER = "SPINAL_KEY_PEPPER"
WRONG = {
    "SPINAL_DATABASE_URL": "postgresql://u:p@hush:hush@h:5432/d",
    "SPINAL_BROKER_URL": "sentinel://:hush@h",
    "SPINAL_DB_PASSWORD_FILE": "/hush/hush",
}
STARTED: dict[str, Callable[[], object]] = {
    "the API": lambda: serve([]),
    "the API in another server": create_app,
    "a worker": worker.celery_app.make_app,
    "a dispatcher": worker.dispatcher.main,
}
COMMANDS = (("doctor",), ("retention",), ("keys", "list"), ("database", "upgrade"))
PROCESSES = {
    ("-m", "service"): PEPPER,
    ("-m", "celery", "-A", "worker.celery_app", "worker"): "SPINAL_DATABASE_URL",
    ("-m", "worker.dispatcher"): "SPINAL_DB_PASSWORD_FILE",
}
"""What is started -> the setting that is wrong."""


@pytest.fixture(params=WRONG)
def wrong(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting that is wrong in this process's environment."""
    monkeypatch.setenv(PEPPER, "hush")
    monkeypatch.setenv(request.param, WRONG[request.param])
    return str(request.param)


@pytest.mark.parametrize("name", STARTED)
def test_what_is_started_ends_with_one_line(name: str, wrong: str) -> None:
    with pytest.raises(SystemExit) as ended:
        STARTED[name]()
    assert_says(str(ended.value.code), wrong)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_says_it_and_what_to_do(
    command: tuple[str, ...], wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["spinal", *command])
    # Signals are those of this process.
    monkeypatch.setattr(spinal.cli.main, "raise_on_signals", lambda **_: None)
    with pytest.raises(SystemExit) as ended:
        spinal.cli.main.main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (ExitCode.USAGE, "")
    cause, following = said.err.splitlines()
    assert following.startswith("next: ")
    assert_says(cause, wrong)


def assert_says(said: str, wrong: str) -> None:
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert wrong in said
    assert "hush" not in said


def test_as_processes_too_they_show_no_traceback_and_no_secret() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPINAL_")}
    running = [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment | {PEPPER: "hush", "PYTHONPATH": str(ROOT), wrong: WRONG.get(wrong, "")},
        )
        for command, wrong in PROCESSES.items()
    ]  # fmt: skip
    for process, (command, wrong) in zip(running, PROCESSES.items(), strict=True):
        out, err = process.communicate(timeout=300)
        assert process.returncode != 0, command
        assert_says("\n".join(line for line in err.splitlines() if line.startswith("error: ")), wrong)
        assert "Traceback" not in err, (command, err)
        assert len(err.splitlines()) <= 2, (command, err)
        assert "hush" not in out + err
