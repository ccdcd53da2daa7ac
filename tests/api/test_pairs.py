"""Pairs over HTTP whose sides are not read in their own ways: what is accepted is what is measured, and is said."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from spinal.checkpoints.resolve import resolve_reference
from spinal.checkpoints.tokenizer import tokenizer_digest
from tests.api.conftest import clone
from tests.api.test_audits import submit
from tests.unit.test_shared_reading import based

Drain = Callable[[], int]
BARE: dict[str, str | bytes | None] = {"tokenizer__json": None, "tokenizer_config__json": None}


def finished(api: TestClient, drain: Drain, **changes: Any) -> dict[str, Any]:
    place = f"/v1/audits/{submit(api, **changes)['id']}"
    drain()
    audit: dict[str, Any] = api.get(place).json()
    assert audit["state"] == "SUCCEEDED", audit["error"]
    return audit


def trace(api: TestClient, audit: dict[str, Any], role: str = "candidate") -> dict[str, Any]:
    found: dict[str, Any] = api.get(audit["links"][f"{role}_trace"]).json()
    return found


def warnings(api: TestClient, audit: dict[str, Any]) -> list[str]:
    found: list[str] = api.get(f"/v1/audits/{audit['id']}/report", params={"format": "json"}).json()["warnings"]
    return found


def test_a_candidate_without_a_tokenizer_is_read_with_that_of_the_reference(
    api: TestClient, drain: Drain, models: Path
) -> None:
    clone("dpo-short", models / "bare", **BARE)
    audit = finished(api, drain, candidate="local:bare")
    found = trace(api, audit)
    assert found["reading"]["tokenizer"] == tokenizer_digest(resolve_reference(str(models / "sft"), roots=None))
    assert any("the tokenizer of local:sft read the prompts" in warning for warning in found["warnings"])
    assert any("candidate: the tokenizer of local:sft" in warning for warning in warnings(api, audit))
    assert trace(api, audit, "reference")["reading"]["tokenizer"] is None
    alone = api.post("/v1/audits", json={"candidate": "local:bare", "prompt_set": "hh-harmless-64"})
    assert (alone.status_code, alone.json()["code"]) == (422, "tokenizer_invalid")


def test_a_tokenizer_that_knows_fewer_ids_narrows_what_is_read_of_the_reference(
    api: TestClient, drain: Drain, models: Path
) -> None:
    tokenizer = json.loads((models / "sft" / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"].values())
    fewer = {text: index for text, index in tokenizer["model"]["vocab"].items() if index != last}
    merges = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) in fewer]
    tokenizer["model"] |= {"vocab": fewer, "merges": merges}
    clone("dpo-short", models / "fewer", tokenizer__json=json.dumps(tokenizer))
    plain = finished(api, drain)
    audit = finished(api, drain, candidate="local:fewer")
    assert trace(api, audit)["reading"]["vocabulary"] is None
    assert trace(api, audit, "reference")["reading"]["vocabulary"] == last
    assert trace(api, plain, "reference")["digest"] != trace(api, audit, "reference")["digest"]


def test_an_adapter_whose_base_is_not_here_is_measured_on_the_reference(
    api: TestClient, drain: Drain, models: Path, tmp_path: Path
) -> None:
    based(models / "lora", "acme/base-7b", {"model.layers.0.self_attn.q_proj": (96, 96)})
    audit = finished(api, drain, candidate="local:lora")
    assert any("'acme/base-7b'" in warning and "local:sft" in warning for warning in trace(api, audit)["warnings"])
    based(models / "wide", "acme/base-7b", {"model.layers.0.self_attn.q_proj": (96, 64)})
    refused = api.post(
        "/v1/audits", json={"candidate": "local:wide", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
    )
    assert (refused.status_code, refused.json()["code"]) == (422, "adapter_invalid")
    assert str(tmp_path) not in refused.text


@pytest.mark.parametrize("change", ["lender", "base"])
def test_what_is_lent_may_not_change_before_it_is_used(
    api: TestClient, drain: Drain, models: Path, change: str
) -> None:
    if change == "lender":
        candidate = clone("dpo-short", models / "side", **BARE)
    else:
        candidate = based(models / "side", "acme/base-7b", {"model.layers.0.self_attn.q_proj": (96, 96)})
    place = f"/v1/audits/{submit(api, candidate=f'local:{candidate.name}')['id']}"
    file = models / "sft" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding": None, "truncation": None}))
    drain()
    audit = api.get(place).json()
    assert audit["state"] == "FAILED"
    assert audit["error"]["code"] == "model_changed"


def test_one_checkpoint_under_two_tokenizers_or_two_vocabularies_is_several_traces(
    api: TestClient, drain: Drain, models: Path
) -> None:
    clone("dpo-short", models / "bare", **BARE)
    tokenizer = json.loads((models / "sft" / "tokenizer.json").read_text())
    last = max(tokenizer["model"]["vocab"].values())
    clone("sft", models / "lower", tokenizer__json=json.dumps(tokenizer | {"normalizer": {"type": "Lowercase"}}))
    fewer = {text: index for text, index in tokenizer["model"]["vocab"].items() if index != last}
    tokenizer["model"] |= {
        "vocab": fewer,
        "merges": [pair for pair in tokenizer["model"]["merges"] if "".join(pair) in fewer],
    }
    clone("sft", models / "fewer", tokenizer__json=json.dumps(tokenizer))
    made = [
        finished(api, drain, candidate="local:bare", reference=f"local:{name}") for name in ("sft", "lower", "fewer")
    ]
    traces = [trace(api, audit) for audit in made]
    assert len({found["digest"] for found in traces}) == len({json.dumps(found["reading"]) for found in traces}) == 3
    assert len({found["model"]["weights_digest"] for found in traces}) == 1
