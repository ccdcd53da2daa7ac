"""An ``mlflow server`` of its own environment beside the stack: a registry of models that tells us of versions."""

import base64
import contextlib
import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devstack.environment import without_settings
from devstack.processes import HOST, Child, StackError, free_port, wait_until

START_S = 180.0
"""Its first start imports much and makes a database."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
"""Environment of a server that asks nobody, and starts no jobs."""
SENDS_HERE = {
    # Otherwise it sends webhooks to https and public addresses alone.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # How long it does not know of a new webhook.
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}
"""Environment of a server that sends webhooks to loopback, and knows a new one at once."""
EVENTS = (("MODEL_VERSION", "CREATED"), ("MODEL_VERSION_ALIAS", "CREATED"), ("MODEL_VERSION_TAG", "SET"))


def server_command(program: Path, port: int, folder: Path) -> list[str]:
    """A server on loopback that keeps everything below ``folder``, and serves artifacts itself."""
    return [
        str(program), "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts",
    ]  # fmt: skip


class MlflowCalls:
    """What is asked of a server at a port of loopback: its REST API and its artifacts."""

    def __init__(self, port: int) -> None:
        self._port = port

    @property
    def host(self) -> str:
        return f"{HOST}:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def send_events(self, url: str, secret: str) -> None:
        """Make a webhook."""
        events = [{"entity": entity, "action": action} for entity, action in EVENTS]
        self.ask("POST", "webhooks", {"name": "spinal", "url": url, "secret": secret, "events": events})

    def register(self, model: str, folder: Path) -> str:
        """The next version of a model, made by a run that logged a folder; returns its number."""
        with contextlib.suppress(urllib.error.HTTPError):
            self.ask("POST", "registered-models/create", {"name": model})
        run = self.ask("POST", "runs/create", {"experiment_id": "0"})["run"]["info"]
        self.put(run["artifact_uri"], folder)
        told = {"name": model, "source": run["artifact_uri"], "run_id": run["run_id"]}
        return str(self.ask("POST", "model-versions/create", told)["model_version"]["version"])

    def put(self, place: str, folder: Path) -> None:
        """Every file of a folder, at a URI of its served artifacts."""
        path = place.removeprefix("mlflow-artifacts:/")
        for file in sorted(each for each in folder.iterdir() if each.is_file()):
            self._send("PUT", f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}/{file.name}", file.read_bytes())

    def alias(self, model: str, version: str, alias: str) -> None:
        self.ask("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})

    def tags(self, model: str, version: str) -> dict[str, str]:
        """Those of a version."""
        found = self.ask("GET", f"model-versions/get?name={model}&version={version}", {})["model_version"]
        return {each["key"]: each["value"] for each in found.get("tags", [])}

    def ask(self, method: str, route: str, members: Mapping[str, Any]) -> dict[str, Any]:
        """Its REST API."""
        answered = self._send(method, f"{self.url}/api/2.0/mlflow/{route}", json.dumps(members).encode())
        found: dict[str, Any] = json.loads(answered)
        return found

    def credentials(self) -> dict[str, str]:
        """Headers of every request."""
        return {}

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  loopback
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            # It wants to know who asks.
            return True
        except OSError:
            return False

    def _send(self, method: str, url: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", **self.credentials()}
        request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310  loopback
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
            content: bytes = answer.read()
        return content


class MlflowServer(MlflowCalls):
    """Its things lie below ``folder``. Raises StackError where it is not installed, or does not start."""

    def __init__(self, program: Path, folder: Path) -> None:
        if not program.is_file():
            raise StackError(f"no {program}: python3 dev.py registry installs it")
        super().__init__(free_port())
        self._program = program
        self._folder = folder
        self._child: Child | None = None

    def start(self) -> None:
        """Returns when it answers."""
        self._folder.mkdir(parents=True)
        command = server_command(self._program, self._port, self._folder)
        key = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}
        environment = without_settings(os.environ) | QUIET | SENDS_HERE | key
        self._child = Child("mlflow", command, log=self._folder / "server.log", env=environment, cwd=self._folder)
        wait_until(self.answers, self._child, timeout=START_S)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "MlflowServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
