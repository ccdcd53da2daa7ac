"""A real ``mlflow server`` of its own environment: SQLite, artifacts served from a folder, jobs and telemetry off."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.places import ROOT
from tests.support.waiting import until, within

ENVIRONMENT = ROOT / ".venv" / "servers" / "mlflow"
HOW_TO_HAVE_IT = "python3 dev.py test makes it below .venv/servers"
USER, PASSWORD = "auditor", "a long enough password"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


SENDS_HERE = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(b"of tests alone, and of 32 bytes.").decode(),
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}
"""Settings of a server that sends webhooks to loopback, and knows a new one at once."""


def is_there() -> bool:
    return (ENVIRONMENT / "bin" / "mlflow").is_file()


class MlflowServer:
    """Started by :func:`served`; everything it keeps lies below ``folder``."""

    def __init__(self, folder: Path, *, signed_in: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._settings = dict(settings or {})
        self.artifacts = folder / "artifacts"
        self._signed_in = signed_in
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def process_group(self) -> int:
        """Of the server and what it started."""
        assert self._process is not None, "it is not running"
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers. At the same address when it was stopped before."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            str(ENVIRONMENT / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(self._port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.artifacts), "--serve-artifacts",
        ]  # fmt: skip
        if self._signed_in:
            command += ["--app-name", "basic-auth"]
        log = self.folder / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment(), stdout=out, stderr=out, start_new_session=True
            )
        process = self._process
        answered = within(lambda: process.poll() is not None or self._answers(), 120.0)
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
        until(lambda: not self._answers(), "the end of mlflow server")

    def ask(self, method: str, route: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """Its REST API, as an administrator."""
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{route}",
            data=json.dumps(members).encode(),
            method=method,
            headers={"Content-Type": "application/json", **self._credentials()},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

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
        kept |= QUIET | self._settings
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

    def _credentials(self) -> dict[str, str]:
        if not self._signed_in:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def put(self, place: str, folder: Path) -> None:
        """Every file of a folder, at a URI of its served artifacts."""
        path = place.removeprefix("mlflow-artifacts:/")
        for file in sorted(each for each in folder.iterdir() if each.is_file()):
            url = f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}/{file.name}"
            request = urllib.request.Request(url, data=file.read_bytes(), method="PUT", headers=self._credentials())
            with urllib.request.urlopen(request, timeout=60):
                pass

    def register(self, model: str, folder: Path) -> str:
        """The next version of a model, made by a run that logged a folder; returns its number."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.ask("POST", "registered-models/create", {"name": model})
        run = self.ask("POST", "runs/create", {"experiment_id": "0"})["run"]["info"]
        self.put(run["artifact_uri"], folder)
        told = {"name": model, "source": run["artifact_uri"], "run_id": run["run_id"]}
        return str(self.ask("POST", "model-versions/create", told)["model_version"]["version"])


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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
