"""Captures and old idempotency keys can be deleted; nothing that an audit needs is."""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.settings import Settings
from spinal.cli.main import main

BODY = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def captures(api_settings: Settings) -> Path:
    return Path(api_settings.artifact_url.removeprefix("file://")) / "captures"


def prune(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["spinal", "retention", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def age(ledger: Ledger) -> None:
    with ledger.begin() as session:
        for table in ("traces", "idempotency_keys"):
            session.execute(text(f"UPDATE {table} SET created_at = now() - interval '40 days'"))


def test_captures_go_and_come_back_when_a_comparison_needs_them(
    api: TestClient, drain: Callable[[], int], ledger: Ledger, captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = api.post("/v1/audits", json=BODY, headers={"Idempotency-Key": "k"}).json()
    drain()
    files = sorted(captures.rglob("*.safetensors"))
    assert len(files) == 2
    (captures / "ab").mkdir()
    piece = captures / "ab" / "ab.safetensors.0.partial"
    piece.write_bytes(b"cut off")
    young = prune(capsys, "--captures-days", "30", "--keys-days", "30", "--apply")
    assert young == {
        "applied": True,
        "captures": 0,
        "bytes": 0,
        "files_of_no_trace": 0,
        "idempotency_keys": 0,
        "deliveries": 0,
    }

    age(ledger)
    size = sum(file.stat().st_size for file in files)
    expected = {"captures": 2, "bytes": size, "files_of_no_trace": 0, "idempotency_keys": 1, "deliveries": 0}
    assert prune(capsys, "--captures-days", "30", "--keys-days", "30") == {"applied": False, **expected}
    assert sorted(captures.rglob("*.safetensors")) == files
    assert prune(capsys, "--captures-days", "30", "--keys-days", "30", "--apply") == {"applied": True, **expected}
    assert list(captures.rglob("*.safetensors")) == []
    assert piece.exists()

    # The audit is as readable as before; another comparison of the same pair measures the captures again.
    assert api.get(f"/v1/audits/{first['id']}").json()["state"] == "SUCCEEDED"
    again = api.post("/v1/audits", json=BODY | {"profile": {"seed": 5}}).json()
    drain()
    assert api.get(f"/v1/audits/{again['id']}").json()["state"] == "SUCCEEDED"
    assert len(list(captures.rglob("*.safetensors"))) == 2
    # They are the traces' captures again, and go again when their time comes.
    age(ledger)
    assert prune(capsys, "--captures-days", "30")["captures"] == 2


def test_captures_of_open_audits_stay(
    api: TestClient, drain: Callable[[], int], ledger: Ledger, captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.post("/v1/audits", json=BODY)
    drain()
    age(ledger)
    api.post("/v1/audits", json=BODY | {"profile": {"seed": 6}})
    assert prune(capsys, "--captures-days", "30", "--apply")["captures"] == 0
    assert len(list(captures.rglob("*.safetensors"))) == 2


def test_files_that_no_trace_names_go_after_a_day(
    captures: Path, api: TestClient, drain: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pieces whose writing was cut off, and captures of workers whose run had been taken away."""
    api.post("/v1/audits", json=BODY)
    drain()
    named = set(captures.rglob("*.safetensors"))
    (captures / "ab").mkdir(parents=True, exist_ok=True)
    old = {captures / "ab" / name for name in ("old.partial", "zombie.safetensors")}
    young = {captures / "ab" / name for name in ("young.partial", "winner.safetensors")}
    for file in old | young:
        file.write_bytes(b"of nobody")
    for file in old | named:
        os.utime(file, (time.time() - 2 * 86_400, time.time() - 2 * 86_400))
    assert prune(capsys, "--apply")["files_of_no_trace"] == 2
    assert {file for file in captures.rglob("*") if file.is_file()} == named | young


def test_a_capture_that_was_cut_off_on_its_disk_is_measured_again(
    api: TestClient, drain: Callable[[], int], captures: Path
) -> None:
    api.post("/v1/audits", json=BODY)
    drain()
    for file in captures.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-100])
    again = api.post("/v1/audits", json=BODY | {"profile": {"seed": 5}}).json()
    drain()
    assert api.get(f"/v1/audits/{again['id']}").json()["state"] == "SUCCEEDED"
