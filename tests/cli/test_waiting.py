"""Waiting for an audit while the service is away, and being stopped meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spinal.errors import ExitCode
from tests.cli.test_cli import spinal
from tests.support.places import ROOT
from tests.support.scripted_service import AUDIT_ID
from tests.support.waiting import until

LONG = 60.0
"""Seconds in which anything here must have come."""


class Stage:
    """A service that comes and goes, and commands that wait for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server = f"http://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[str]] = []
        self.becomes("RUNNING")

    def becomes(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    def starts(self) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-m", "tests.support.scripted_service", str(self.port), str(self.folder)],
            cwd=ROOT,
            text=True,
        )
        self.processes.append(made)
        return made

    def calls(self, *arguments: str) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-m", "spinal.cli.main", *arguments, "--server", self.server], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self.processes.append(made)
        return made

    def seen(self, what: str) -> list[str]:
        file = self.folder / "seen"
        return [line for line in file.read_text().splitlines() if line.startswith(what)] if file.exists() else []

    def is_asked(self, times: int = 1) -> None:
        until(lambda: len(self.seen(f"GET /v1/audits/{AUDIT_ID} ")) >= times, f"{times} requests", timeout=LONG)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def audit(stage: Stage, wait: str, *more: str) -> subprocess.Popen[str]:
    return stage.calls("audit", "local:new", "--reference", "local:old", "--wait", wait, "--json", *more)


def ends(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_service_that_goes_away_and_comes_back_is_waited_for(stage: Stage, how: str) -> None:
    first = stage.starts()
    command = audit(stage, "5m")
    stage.is_asked()
    first.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    if how == "killed":
        first.wait()
        assert command.stderr is not None
        # Behind the audit's id, and where it stands.
        assert "it is asked again" in "".join(command.stderr.readline() for _ in range(3))
        stage.becomes("SUCCEEDED")
        stage.starts()
    else:
        stage.becomes("SUCCEEDED")
        first.send_signal(signal.SIGCONT)
    code, out, _ = ends(command)
    assert code == ExitCode.PASS
    assert json.loads(out)["state"] == "SUCCEEDED"
    assert len({line.split()[-1] for line in stage.seen("POST /v1/audits ")}) == 1


def test_a_service_that_is_not_there_yet_is_waited_for(stage: Stage) -> None:
    command = audit(stage, "5m")
    assert "it is asked again" in (command.stderr.readline() if command.stderr else "")
    stage.becomes("SUCCEEDED")
    stage.starts()
    assert ends(command)[0] == ExitCode.PASS


def test_answers_of_a_proxy_and_of_a_full_service_are_waited_out_under_one_key(stage: Stage) -> None:
    (stage.folder / "first").write_text("502\n503\n429 1\n504")
    stage.becomes("SUCCEEDED")
    stage.starts()
    assert ends(audit(stage, "5m"))[0] == ExitCode.PASS
    posts = stage.seen("POST /v1/audits ")
    assert len(posts) >= 5
    assert len(set(posts)) == 1


def test_no_service_ends_as_not_evaluated_at_the_deadline(stage: Stage) -> None:
    code, out, err = ends(audit(stage, "3s"))
    assert (code, out) == (ExitCode.NOT_EVALUATED, "")
    assert json.loads(err.splitlines()[-1])["code"] == "service_unreachable"


def test_a_service_that_only_takes_connections_ends_as_not_evaluated(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", stage.port)):
        code, _, err = ends(audit(stage, "2s"))
    assert code == ExitCode.NOT_EVALUATED
    assert json.loads(err.splitlines()[-1])["code"] == "service_unreachable"


def test_an_audit_that_still_runs_at_the_deadline_is_timed_out_and_named(stage: Stage) -> None:
    stage.starts()
    stage_up(stage)
    code, _, err = ends(audit(stage, "2s"))
    assert code == ExitCode.TIMED_OUT
    problem = json.loads(err.splitlines()[-1])
    assert (problem["code"], problem["audit_id"]) == ("audit_still_running", AUDIT_ID)
    assert f"`spinal wait {AUDIT_ID}`" in problem["hint"]


def test_a_service_that_is_away_at_the_deadline_is_not_a_time_out(stage: Stage) -> None:
    service = stage.starts()
    stage_up(stage)
    command = audit(stage, "8s")
    stage.is_asked()
    service.send_signal(signal.SIGSTOP)
    code, _, err = ends(command)
    assert code == ExitCode.NOT_EVALUATED
    assert json.loads(err.splitlines()[-1])["audit_id"] == AUDIT_ID


def stage_up(stage: Stage) -> None:
    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", stage.port), 1.0).close()
        except OSError:
            return False
        return True

    until(answers, "the service", timeout=LONG)


@pytest.mark.parametrize(
    ("state", "code"),
    [("SUCCEEDED", ExitCode.PASS), ("FAILED", ExitCode.NOT_EVALUATED), ("CANCELLED", ExitCode.NOT_EVALUATED)],
)
@pytest.mark.parametrize("command", ["audit", "wait"])
def test_how_an_audit_ended_is_the_exit_code(stage: Stage, command: str, state: str, code: ExitCode) -> None:
    stage.becomes(state)
    stage.starts()
    made = audit(stage, "1m") if command == "audit" else stage.calls("wait", AUDIT_ID, "--wait", "1m", "--json")
    assert ends(made)[0] == code


@pytest.mark.parametrize(
    ("number", "word", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]
)
@pytest.mark.parametrize("command", ["audit", "wait"])
def test_a_stopped_command_says_what_goes_on(
    stage: Stage, command: str, number: signal.Signals, word: str, code: int
) -> None:
    stage.starts()
    stage_up(stage)
    made = audit(stage, "5m") if command == "audit" else stage.calls("wait", AUDIT_ID)
    stage.is_asked(2)
    made.send_signal(number)
    ended, _, err = ends(made)
    assert ended == 128 + number
    stop = f"`spinal cancel {AUDIT_ID} --server {stage.server}`"
    assert err.splitlines()[-1] == f"{word}: audit {AUDIT_ID} goes on; stop it with {stop}"
    assert not stage.seen(f"POST /v1/audits/{AUDIT_ID}/cancel")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["audit", "wait"])
def test_a_stopped_command_leaves_an_error_and_no_verdict(stage: Stage, command: str, number: signal.Signals) -> None:
    stage.starts()
    stage_up(stage)
    junit, sarif = stage.folder / "x.xml", stage.folder / "x.sarif"
    options = ("-o", str(junit), "-o", str(sarif))
    made = audit(stage, "5m", *options) if command == "audit" else stage.calls("wait", AUDIT_ID, *options)
    stage.is_asked(2)
    made.send_signal(number)
    ended, _, err = ends(made)
    assert ended == 128 + number
    # With --json stderr is for objects: the file says it.
    assert (f"wrote {junit} (an error, no verdict)" in err) == (command == "wait")
    assert 'errors="1"' in junit.read_text()
    assert "before there was a verdict" in junit.read_text()
    assert not sarif.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_cancels_where_it_was_told_to(stage: Stage, number: signal.Signals) -> None:
    stage.starts()
    made = audit(stage, "5m", "--cancel-on-interrupt")
    stage.is_asked(2)
    made.send_signal(number)
    ended, _, err = ends(made)
    assert ended == 128 + number
    assert err.splitlines()[-1] == f"audit {AUDIT_ID} CANCELLED"
    assert (stage.folder / "state").read_text() == "CANCELLED"


def test_a_second_signal_ends_a_command_that_cannot_cancel(stage: Stage) -> None:
    service = stage.starts()
    made = audit(stage, "5m", "--cancel-on-interrupt")
    stage.is_asked(2)
    service.send_signal(signal.SIGSTOP)
    made.send_signal(signal.SIGTERM)
    told = made.stderr
    assert told is not None
    until(lambda: "cancelling" in told.readline(), "what is being done", timeout=LONG)
    made.send_signal(signal.SIGTERM)
    assert made.wait(LONG) == 143


def test_audits_are_listed_shown_and_cancelled(stage: Stage) -> None:
    stage.starts()
    stage_up(stage)
    for command in ("list", "show", "cancel"):
        arguments = (command, *(() if command == "list" else (AUDIT_ID,)), "--server", stage.server)
        plain, as_json = spinal(*arguments), spinal(*arguments, "--json")
        assert (plain.returncode, as_json.returncode) == (0, 0), plain.stderr
        assert AUDIT_ID in plain.stdout
        found = json.loads(as_json.stdout)
        assert (found["items"][0] if command == "list" else found)["id"] == AUDIT_ID
    assert (stage.folder / "state").read_text() == "CANCELLED"
