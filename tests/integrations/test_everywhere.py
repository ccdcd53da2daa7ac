"""The same checkpoint in a folder, on a hub, in a registry and in a bucket is one content, and is measured once."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from tests.api.conftest import BUNDLED, api, api_settings, double, drain, models
from tests.conftest import Without
from tests.support.engine_double import calls
from tests.support.hub import Hub
from tests.support.mlflow_server import HOW_TO_HAVE_IT, MlflowServer, is_there, served
from tests.support.object_server import OWNER, ObjectServer, missing

__all__ = ["api", "api_settings", "double", "drain", "models"]
pytestmark = pytest.mark.server
SFT = BUNDLED / "sft"
REFERENCES = ("local:sft", "hf:acme/sft", "mlflow:chat/1", "mlflow:chat@champion", "s3://models/team/sft")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.add("acme/sft", SFT)
        yield made


@pytest.fixture
def registry(tmp_path: Path, without: Without) -> Iterator[MlflowServer]:
    if not is_there():
        without("the environment of an mlflow server", HOW_TO_HAVE_IT)
    with served(tmp_path / "mlflow") as server:
        run = server.ask("POST", "runs/create", {"experiment_id": "0"})["run"]["info"]
        folder = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
        for path in sorted(SFT.iterdir()):
            put(f"{server.url}/api/2.0/mlflow-artifacts/artifacts/{folder}/{path.name}", path.read_bytes())
        server.ask("POST", "registered-models/create", {"name": "chat"})
        server.ask(
            "POST",
            "model-versions/create",
            {"name": "chat", "source": run["artifact_uri"], "run_id": run["run_id"]},
        )
        server.ask("POST", "registered-models/alias", {"name": "chat", "alias": "champion", "version": "1"})
        yield server


def put(url: str, content: bytes) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data=content, method="PUT"), timeout=60):
        pass


@pytest.fixture
def bucket(tmp_path: Path, without: Without) -> Iterator[ObjectServer]:
    home = tmp_path / "objects"
    home.mkdir()
    if lacks := missing(home):
        without(*lacks)
    with ObjectServer(home) as running:
        running.make_bucket("models")
        running.put_folder("models", "team/sft/", SFT)
        yield running


@pytest.fixture
def model_sources(hub: Hub, registry: MlflowServer, bucket: ObjectServer) -> str:
    here = ["127.0.0.1"]
    keys = {"access_key_id": OWNER.id, "secret_access_key": OWNER.secret}
    return json.dumps(
        {
            "hf": {"endpoint": hub.url, "allow": ["acme/*"], "private_hosts": here, "redirect_hosts": here},
            "mlflow": {"url": registry.url, "allow": ["chat"], "private_hosts": [registry.host]},
            "s3": {"allow": ["models"], "endpoint": bucket.endpoint, "allow_http": True, **keys},
        }
    )


def test_the_same_weights_from_folder_hub_registry_and_bucket_are_one_digest_and_one_trace(
    api: TestClient, drain: Callable[[], int], double: Path
) -> None:
    traces = {}
    for reference in REFERENCES:
        body = {"candidate": reference, "prompt_set": "hh-harmless-64"}
        audit = api.post("/v1/audits", json=body)
        assert audit.status_code in (201, 202), (reference, audit.text)
        drain()
        found = api.get(audit.json()["links"]["self"]).json()
        assert found["state"] == "SUCCEEDED", (reference, found["error"])
        traces[reference] = found["candidate_trace"]
    assert len(set(traces.values())) == 1, traces
    trace = api.get(f"/v1/traces/{traces['local:sft']}").json()
    assert trace["model"]["weights_digest"] == weights_digest(resolve_reference(str(SFT), roots=None))
    assert len(calls(double)) == 1
