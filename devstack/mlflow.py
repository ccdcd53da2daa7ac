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
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "OMP_NUM_THREADS": "1",
    # Otherwise it sends webhooks to https and public addresses alone.
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    # How long it does not know of a new webhook.
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}
EVENTS = (("MODEL_VERSION", "CREATED"), ("MODEL_VERSION_ALIAS", "CREATED"), ("MODEL_VERSION_TAG", "SET"))


class MlflowServer:
    """Its things lie below ``folder``. Raises StackError where it is not installed, or does not start."""

    def __init__(self, program: Path, folder: Path) -> None:
        if not program.is_file():
            raise StackError(f"no {program}: python3 dev.py registry installs it")
        self._program = program
        self._folder = folder
        self._port = free_port()
        self._child: Child | None = None

    @property
    def host(self) -> str:
        return f"{HOST}:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def start(self) -> None:
        """Returns when it answers."""
        self._folder.mkdir(parents=True)
        command = [
            str(self._program), "server", "--host", HOST, "--port", str(self._port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination", str(self._folder / "artifacts"), "--serve-artifacts",
        ]  # fmt: skip
        key = {"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}
        environment = without_settings(os.environ) | ENVIRONMENT | key
        self._child = Child("mlflow", command, log=self._folder / "server.log", env=environment, cwd=self._folder)
        wait_until(self._answers, self._child, timeout=START_S)

    def stop(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "MlflowServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def send_events(self, url: str, secret: str) -> None:
        """Make a webhook."""
        events = [{"entity": entity, "action": action} for entity, action in EVENTS]
        self._ask("POST", "webhooks", {"name": "spinal", "url": url, "secret": secret, "events": events})

    def register(self, model: str, folder: Path) -> str:
        """The next version of a model, made by a run that logged a folder; returns its number."""
        with contextlib.suppress(urllib.error.HTTPError):
            self._ask("POST", "registered-models/create", {"name": model})
        run = self._ask("POST", "runs/create", {"experiment_id": "0"})["run"]["info"]
        path = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for file in sorted(each for each in folder.iterdir() if each.is_file()):
            self._send("PUT", f"{self.url}/api/2.0/mlflow-artifacts/artifacts/{path}/{file.name}", file.read_bytes())
        told = {"name": model, "source": run["artifact_uri"], "run_id": run["run_id"]}
        return str(self._ask("POST", "model-versions/create", told)["model_version"]["version"])

    def alias(self, model: str, version: str, alias: str) -> None:
        self._ask("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})

    def tags(self, model: str, version: str) -> dict[str, str]:
        """Those of a version."""
        found = self._ask("GET", f"model-versions/get?name={model}&version={version}", {})["model_version"]
        return {each["key"]: each["value"] for each in found.get("tags", [])}

    def _ask(self, method: str, route: str, members: Mapping[str, Any]) -> dict[str, Any]:
        answered = self._send(method, f"{self.url}/api/2.0/mlflow/{route}", json.dumps(members).encode())
        found: dict[str, Any] = json.loads(answered)
        return found

    def _send(self, method: str, url: str, body: bytes) -> bytes:
        request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": "application/json"})  # noqa: S310  loopback
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  as above
            content: bytes = answer.read()
        return content

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310  as above
                return bool(answer.status == 200)
        except OSError:
            return False
