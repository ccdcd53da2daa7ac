"""Settings of model sources where a process of the service starts: one line, no value, before the first request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from spinal.checkpoints.sources.reach import load_source_settings
from spinal.errors import UsageError
from tests.support.places import ROOT

API = ("-c", "from service.app import create_app; create_app()")
DISPATCHER = ("-m", "worker.dispatcher")
WORKER = ("-W", "ignore", "-m", "celery", "-A", "worker.celery_app", "worker", "--concurrency", "1", "--pool", "solo")
NOWHERE = {"SPINAL_KEY_PEPPER": "p", "SPINAL_BROKER_URL": "redis://127.0.0.1:1/0"}


def started(process: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *process], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
        env=os.environ | NOWHERE | environment,
    )  # fmt: skip


@pytest.mark.parametrize("process", [API, DISPATCHER, WORKER], ids=["api", "dispatcher", "worker"])
@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("SPINAL_MODEL_SOURCES", '{"hf": {"allow": ["Bearer SECRET"]}}', "hf.allow: "),
        ("SPINAL_MODEL_SOURCES", "SECRET", "not a mapping of sources"),
        ("SPINAL_MODEL_SOURCES_FILE", "/nowhere/sources.yaml", "model_sources_file cannot be read"),
        ("SPINAL_LEASE_S", "SECRET", "SPINAL_LEASE_S: "),
    ],
)
def test_wrong_settings_end_a_process_at_its_start_with_one_line(
    process: tuple[str, ...], name: str, value: str, place: str
) -> None:
    done = started(process, **{name: value})
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert place in line
    assert "SECRET" not in done.stdout + done.stderr


@pytest.mark.parametrize("process", [API, WORKER], ids=["api", "worker"])
def test_a_token_file_that_is_missing_is_told_at_the_start(process: tuple[str, ...]) -> None:
    own = {"tenants": {"team-a": {"hf": {"allow": ["*"], "token_file": "/nowhere/of-team-a"}}}}
    done = started(process, SPINAL_MODEL_SOURCES=json.dumps(own))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "error: settings of model sources: tenants.team-a.hf: the token file"
    )
    assert "Traceback" not in done.stderr
    assert "/nowhere" not in done.stderr


def test_every_source_of_every_tenant_is_made_once(tmp_path: Path) -> None:
    token = tmp_path / "token"
    said = {"s3": {"allow": ["b"], "anonymous": True}, "mlflow": {"allow": ["*"], "url": "https://registry.example"}}
    own = {"tenants": {"team-a": {"hf": {"allow": ["*"], "token_file": str(token)}}}}
    settings = Settings(key_pepper=SecretStr("p"), model_sources=load_source_settings(json.dumps(said | own)))
    with pytest.raises(UsageError, match="team-a"):
        create_app(settings)
    token.write_text("hf_token")
    create_app(settings)
    no_credentials = load_source_settings('{"s3": {"allow": ["b"]}}')
    with pytest.raises(UsageError, match="s3: the source s3 has no credentials"):
        create_app(settings.model_copy(update={"model_sources": no_credentials}))


def test_what_is_enabled_is_told_without_secrets() -> None:
    hub = {"hf": {"allow": ["*"], "token": "hf_SECRET"}}
    found = load_source_settings(json.dumps(hub | {"tenants": {"team-a": hub}}))
    assert found.enabled() == "local, hf; of team-a: hf"
    assert "SECRET" not in repr(found)
