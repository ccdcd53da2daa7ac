"""Everything wrong that can be sent: its own code, a sentence, a next step, and nothing written."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from tests.api.conftest import BUNDLED, clone

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture(autouse=True)
def _nothing_is_written(ledger: Ledger) -> Iterator[None]:
    yield
    with ledger.read() as session:
        for table in ("audits", "runs", "models", "prompt_sets"):
            assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 0, table


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The problem object of an answer that must be this refusal."""
    assert answer.headers["Content-Type"] == "application/problem+json", answer.text
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert problem["detail"]
    assert problem["title"]
    assert problem["status"] == status
    assert answer.headers["X-Request-Id"] in problem["instance"]
    return problem


def config(**changes: Any) -> str:
    known = json.loads((BUNDLED / "sft" / "config.json").read_text())
    return json.dumps({name: value for name, value in (known | changes).items() if value is not None})


def header_only(size: int) -> bytes:
    """A safetensors file whose header promises more than the file holds."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 16


@pytest.mark.parametrize(
    ("reference", "code"),
    [
        ("local:nothing-here", "model_not_found"),
        ("no-such-name", "model_not_found"),
        ("local:../models/sft/../../..", "model_path_refused"),
        ("local:/etc", "model_path_refused"),
        ("local:escape", "model_path_refused"),
        ("local:", "model_reference_invalid"),
        ("local:" + "x" * 1000, "model_not_found"),
        ("local:loop", "model_not_found"),
        ("ftp:somewhere", "model_reference_invalid"),
        ("http://169.254.169.254/latest", "model_reference_invalid"),
        ("hf:org/name@main", "model_reference_invalid"),
    ],
)
def test_references_that_name_nothing_auditable(api: TestClient, models: Path, reference: str, code: str) -> None:
    (models / "escape").symlink_to("/etc")
    (models / "loop").symlink_to(models / "loop")
    problem = refused(api.post("/v1/audits", json=PAIR | {"candidate": reference}), 422, code)
    assert problem["hint"]
    refused(api.post("/v1/models", json={"name": "m", "reference": reference if ":" in reference else "local:x"}), 422,
            code if ":" in reference else "model_not_found")  # fmt: skip


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no weights": ({"model__safetensors": None}, "weights_missing"),
    "truncated": ({"model__safetensors": header_only(4096)}, "weights_corrupt"),
    "not safetensors": ({"model__safetensors": b"garbage" * 9}, "weights_corrupt"),
    "empty weights": ({"model__safetensors": b""}, "weights_corrupt"),
    "pickle only": ({"model__safetensors": None, "pytorch_model__bin": b"\x80\x02."}, "pickle_weights_refused"),
    "no config": ({"config__json": None}, "config_invalid"),
    "config is no JSON": ({"config__json": "{"}, "config_invalid"),
    "config is no object": ({"config__json": "[]"}, "config_invalid"),
    "encoder-decoder": (
        {
            "config__json": config(
                model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True
            )
        },
        "architecture_unsupported",
    ),
    "BERT": ({"config__json": config(model_type="bert", architectures=["BertModel"])}, "architecture_unsupported"),
    "tokenizer is no JSON": ({"tokenizer__json": "{"}, "tokenizer_invalid"),
    "another depth": ({"config__json": config(num_hidden_layers=3)}, "pair_mismatch"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(api: TestClient, models: Path, name: str) -> None:
    changes, code = BROKEN[name]
    clone("dpo-short", models / "broken", **changes)
    problem = refused(api.post("/v1/audits", json=PAIR | {"candidate": "local:broken"}), 422, code)
    assert "local:broken" in problem["detail"] or code == "pair_mismatch"
    assert str(models) not in json.dumps(problem), "an answer names no path of the server"


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"candidat": "x"}, "/candidat"),
        ({"candidate": 7}, "/candidate"),
        ({"candidate": ""}, "/candidate"),
        ({"candidate": "local:\u0000"}, "/candidate"),
        ({"candidate": "local:" + "x" * 2000}, "/candidate"),
        ({"reference": ["local:sft"]}, "/reference"),
        ({"priority": "1"}, "/priority"),
        ({"priority": 1.5}, "/priority"),
        ({"priority": 10**30}, "/priority"),
        ({"labels": {"a": {"b": 1}}}, "/labels/a"),
        ({"labels": {"bad key": "1"}}, "/labels/bad key"),
        ({"labels": {f"k{n}": "" for n in range(33)}}, "/labels"),
        ({"profile": {"max_tokens": "96"}}, "/profile/max_tokens"),
        ({"profile": {"max_tokens": 0}}, "/profile/max_tokens"),
        ({"profile": {"unknown_knob": 1}}, "/profile/unknown_knob"),
        ({"profile": {"terminal_fraction": 1.0}}, "/profile/terminal_fraction"),
    ],
)
def test_bodies_that_do_not_fit_the_contract(api: TestClient, changes: dict[str, Any], pointer: str) -> None:
    problem = refused(api.post("/v1/audits", json=PAIR | changes), 422, "request_invalid")
    assert any(error["pointer"].startswith(pointer) for error in problem["errors"]), problem["errors"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe{}", b'{"candidate": "\xc3\x28"}', b"[" * 100_000],
    ids=["empty", "cut off", "utf-16 mark", "invalid utf-8", "deep nesting"],
)
def test_bodies_that_are_no_json(api: TestClient, body: bytes) -> None:
    answer = api.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] in ("body_malformed", "request_invalid")
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e400", '"\\ud800"', '"\\u0000"'])
def test_values_json_allows_and_a_database_does_not(api: TestClient, value: str) -> None:
    for body in (f'{{"candidate": "local:sft", "labels": {{"a": {value}}}}}', f'{{"candidate": {value}}}'):
        answer = api.post("/v1/audits", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["code"] in ("body_malformed", "request_invalid")


def test_a_body_above_the_limit(api: TestClient) -> None:
    body = json.dumps(PAIR | {"labels": {"a": "x" * 2_000_000}})
    refused(api.post("/v1/audits", content=body, headers={"Content-Type": "application/json"}), 413, "body_too_large")

    def chunks() -> Iterator[bytes]:
        yield from (body[n : n + 65536].encode() for n in range(0, len(body), 65536))

    refused(
        api.post("/v1/audits", content=chunks(), headers={"Content-Type": "application/json"}), 413, "body_too_large"
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/audits/01a20c94-af05-7cdc-a3f4-908c6a807f31", 404, "audit_not_found"),
        ("POST", "/v1/audits/01a20c94-af05-7cdc-a3f4-908c6a807f31/cancel", 404, "audit_not_found"),
        ("GET", "/v1/audits/01a20c94-af05-7cdc-a3f4-908c6a807f31/scores", 404, "audit_not_found"),
        ("GET", "/v1/audits/not-an-id", 422, "request_invalid"),
        ("GET", "/v1/audits?state=DONE", 422, "request_invalid"),
        ("GET", "/v1/audits?cursor=abc", 422, "request_invalid"),
        ("GET", "/v1/audits?limit=0", 422, "request_invalid"),
        ("GET", "/v1/audits?label=nocolon", 422, "request_invalid"),
        ("GET", "/v1/audits?stat=FAILED", 422, "request_invalid"),
        ("GET", f"/v1/traces/{'0' * 64}", 404, "trace_not_found"),
        ("GET", "/v1/traces/xyz", 422, "request_invalid"),
        ("GET", f"/v1/diffs/{'0' * 64}...{'1' * 64}", 404, "trace_not_found"),
        ("GET", "/v1/models/nope", 404, "registered_model_not_found"),
        ("GET", "/nowhere", 404, "route_not_found"),
        ("DELETE", "/v1/audits", 405, "method_not_allowed"),
    ],
)
def test_addresses_that_lead_nowhere(api: TestClient, method: str, path: str, status: int, code: str) -> None:
    refused(api.request(method, path), status, code)


def test_prompt_sets_that_hold_nothing(api: TestClient) -> None:
    refused(api.post("/v1/audits", json=PAIR | {"prompt_set": "f" * 64}), 422, "prompt_set_not_found")
    answer = api.post("/v1/prompt-sets", json={"prompts": [{"prompt": "  "}]})
    assert answer.json()["code"] in ("prompt_set_empty", "request_invalid")
    assert answer.status_code == 422
