"""A real ``mlflow server`` of its own environment: SQLite, artifacts served from a folder, jobs and telemetry off."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from devstack import mlflow as devstack
from devstack.processes import free_port
from tests.support.places import ROOT
from tests.support.waiting import until, within

ENVIRONMENT = ROOT / ".venv" / "servers" / "mlflow"
HOW_TO_HAVE_IT = "python3 dev.py test makes it below .venv/servers"
USER, PASSWORD = "auditor", "a long enough password"
SENDS_HERE = {
    **devstack.SENDS_HERE,
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"of tests alone, and of 32 bytes.").decode(),
}
"""Settings of a server that sends webhooks to loopback, and knows a new one at once."""


def is_there() -> bool:
    return (ENVIRONMENT / "bin" / "mlflow").is_file()


class MlflowServer(devstack.MlflowCalls):
    """Started by :func:`served`; everything it keeps lies below ``folder``."""

    def __init__(self, folder: Path, *, signed_in: bool = False, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(free_port())
        self.folder = folder
        self._settings = dict(settings or {})
        self.artifacts = folder / "artifacts"
        self._signed_in = signed_in
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process_group(self) -> int:
        """Of the server and what it started."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers. At the same address when it was stopped before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = devstack.server_command(ENVIRONMENT / "bin" / "mlflow", self._port, self.folder)
        if self._signed_in:
            command += ["--app-name", "basic-auth"]
        log = self.folder / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=out, stderr=out, start_new_session=True
            )
        process = self._process
        answered = within(lambda: process.poll() is not None or self.answers(), 120.0)
        if not answered or process.poll() is not None:
            self.stop()
            raise AssertionError(f"mlflow server did not start:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Kill it and what it started; nothing answers any more."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        until(lambda: not self.answers(), "the end of mlflow server")

    def run(self, script: Path, *arguments: str) -> dict[str, Any]:
        """A script in its environment, with the packages of this one behind its own; what it prints last, as JSON."""
        command = [str(ENVIRONMENT / "bin" / "python"), str(script), sysconfig.get_paths()["purelib"], self.url]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        kept |= devstack.QUIET | self._settings
        if self._signed_in:
            settings = self.folder / "auth.ini"
            settings.write_text(
                f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{self.folder / 'auth.db'}\n"
                f"admin_username = {USER}\nadmin_password = {PASSWORD}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
                # Otherwise every request takes as long as it takes to look at a password.
                "auth_cache_ttl_seconds = 600\n"
            )
            kept |= {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test alone"}
            kept |= {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        return kept

    def credentials(self) -> dict[str, str]:
        """Of an administrator."""
        if not self._signed_in:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}


@contextlib.contextmanager
def served(
    folder: Path, *, signed_in: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[MlflowServer]:
    server = MlflowServer(folder, signed_in=signed_in, settings=settings)
    server.start()
    try:
        yield server
    finally:
        server.stop()
