"""Captures and old idempotency keys can be deleted; nothing that an audit needs is."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service import retention
from service.ledger.unit_of_work import Ledger

BODY = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture
def captures(api_settings) -> Path:  # type: ignore[no-untyped-def]
    return Path(api_settings.artifact_url.removeprefix("file://")) / "captures"


def prune(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert retention.main(list(arguments)) == 0
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
    assert young == {"applied": True, "captures": 0, "bytes": 0, "cut_off_pieces": 0, "idempotency_keys": 0}

    age(ledger)
    size = sum(file.stat().st_size for file in files)
    expected = {"captures": 2, "bytes": size, "cut_off_pieces": 0, "idempotency_keys": 1}
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
    assert sorted(captures.rglob("*.safetensors")) == files


def test_captures_of_open_audits_stay(
    api: TestClient, drain: Callable[[], int], ledger: Ledger, captures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.post("/v1/audits", json=BODY)
    drain()
    age(ledger)
    api.post("/v1/audits", json=BODY | {"profile": {"seed": 6}})
    assert prune(capsys, "--captures-days", "30", "--apply")["captures"] == 0
    assert len(list(captures.rglob("*.safetensors"))) == 2


def test_pieces_of_cut_off_writes_go_after_a_day(
    captures: Path, api: TestClient, drain: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    (captures / "ab").mkdir(parents=True)
    old, young = (captures / "ab" / f"{name}.partial" for name in ("old", "young"))
    for piece in (old, young):
        piece.write_bytes(b"cut off")
    os.utime(old, (time.time() - 2 * 86_400, time.time() - 2 * 86_400))
    assert prune(capsys, "--apply")["cut_off_pieces"] == 1
    assert not old.exists()
    assert young.exists()
