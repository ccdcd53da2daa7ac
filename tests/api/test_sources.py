"""Models that live on a hub, over HTTP: pinned and judged before anything is fetched, and fetched once."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors import safe_open
from safetensors.numpy import save
from sqlalchemy import text

from service.database.unit_of_work import Ledger
from service.operations.invariants import violations
from service.runs import rings
from service.settings import Settings, get_settings
from spinal.checkpoints.identity import weights_digest
from spinal.checkpoints.resolve import resolve_reference
from tests.api.conftest import BUNDLED
from tests.support.engine_double import calls
from tests.support.hub import Hub
from tests.support.hub_serving import Fault
from worker import tasks

Drain = Callable[[], int]
PROMPTS = "hh-harmless-64"
WEIGHTS = "model.safetensors"
TOKENIZER = frozenset(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"))
TOKEN = "hf_secret_of_the_deployment"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        made.tokens[TOKEN] = ("acme/*",)
        for name in ("sft", "dpo-short"):
            made.add(f"acme/{name}", BUNDLED / name)
        yield made


@pytest.fixture
def model_sources(hub: Hub) -> str:
    own = {"endpoint": hub.url, "private_hosts": ["127.0.0.1"], "redirect_hosts": ["127.0.0.1"]}
    return json.dumps({"hf": {"allow": ["acme/*"], "token": TOKEN, **own}})


def pair(candidate: str = "hf:acme/dpo-short", reference: str = "hf:acme/sft", **more: Any) -> dict[str, Any]:
    return {"candidate": candidate, "reference": reference, "prompt_set": PROMPTS, **more}


def submit(api: TestClient, **body: Any) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=pair(**body))
    assert answer.status_code in (201, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found | {"status": answer.status_code}


def refused(api: TestClient, **body: Any) -> tuple[int, str]:
    answer = api.post("/v1/audits", json=pair(**body))
    return answer.status_code, answer.json()["code"]


def ended(api: TestClient, drain: Drain, audit: dict[str, Any]) -> dict[str, Any]:
    drain()
    found: dict[str, Any] = api.get(audit["links"]["self"]).json()
    assert found["state"] == "SUCCEEDED", found
    return found


def digest_of(name: str) -> str:
    return weights_digest(resolve_reference(str(BUNDLED / name), roots=None))


def without_tokenizers(hub: Hub) -> int:
    """Bytes that the hub sent beside the files of tokenizers."""
    seen = hub.requests("* GET *")
    return sum(each.sent for each in seen if each.what.rsplit("/", 1)[-1] not in TOKENIZER)


# the same thing, wherever it lives


def test_a_model_of_the_hub_has_the_digest_and_the_trace_of_the_same_files_in_a_folder(
    api: TestClient, drain: Drain, hub: Hub
) -> None:
    hub_audit = ended(api, drain, submit(api))
    local = submit(api, candidate="local:dpo-short", reference="local:sft")
    local_audit = ended(api, drain, local)
    assert hub_audit["comparison"] == local_audit["comparison"]
    assert hub_audit["candidate_trace"] == local_audit["candidate_trace"]
    trace = api.get(f"/v1/traces/{hub_audit['candidate_trace']}").json()
    assert trace["model"]["weights_digest"] == digest_of("dpo-short")


def test_the_audit_names_the_commit_and_measures_it_though_the_branch_moves(
    api: TestClient, drain: Drain, hub: Hub, double: Path
) -> None:
    audit = submit(api)
    commit = hub.repositories["acme/dpo-short"].refs["main"]
    hub.repositories["acme/dpo-short"].commit(BUNDLED / "sft")
    found = ended(api, drain, audit)
    assert found["pinned"]["candidate"] == f"hf:acme/dpo-short@{commit}"
    trace = api.get(f"/v1/traces/{found['candidate_trace']}").json()
    assert trace["model"]["weights_digest"] == digest_of("dpo-short")
    later = submit(api)
    assert later["pinned"]["candidate"] != found["pinned"]["candidate"]


# the verdict before the download


def test_known_content_is_answered_at_once_and_no_weights_are_read(
    api: TestClient, drain: Drain, hub: Hub, double: Path, ledger: Ledger
) -> None:
    before = ended(api, drain, submit(api, candidate="local:dpo-short", reference="local:sft"))
    measured = calls(double)
    audit = submit(api)
    assert audit["status"] == 201
    assert (audit["state"], audit["comparison"]) == ("SUCCEEDED", before["comparison"])
    assert audit["verdict"] == before["verdict"]
    assert without_tokenizers(hub) < 1_000_000
    weights = [each for each in hub.requests("* GET *") if each.what.endswith(WEIGHTS)]
    assert sum(each.sent for each in weights) < 100_000
    assert calls(double) == measured
    with ledger.read() as session:
        assert not violations(session)
    hub.forget()
    again = submit(api)
    assert again["status"] == 201
    # Tokenizers are known by their blob ids, headers by the digests of their files.
    assert not [each for each in hub.requests("* GET *") if "/resolve/" in each.what]


def test_another_commit_with_the_same_weights_is_known_content(api: TestClient, drain: Drain, hub: Hub) -> None:
    before = ended(api, drain, submit(api))
    files = {file.name: file for file in (BUNDLED / "dpo-short").iterdir()}
    hub.repositories["acme/dpo-short"].commit({**files, "README.md": b"another card"})
    audit = submit(api)
    assert audit["status"] == 201
    assert audit["comparison"] == before["comparison"]
    assert audit["pinned"]["candidate"] != before["pinned"]["candidate"]


def test_validation_says_the_digest_what_is_known_and_what_would_be_fetched(
    api: TestClient, drain: Drain, hub: Hub
) -> None:
    ask = "/v1/audits?validate_only=true"
    before = api.post(ask, json=pair()).json()
    sizes = sum((BUNDLED / name / WEIGHTS).stat().st_size for name in ("sft", "dpo-short"))
    assert before["candidate"]["weights_digest"] == digest_of("dpo-short")
    assert before["cached"] == {"candidate": False, "reference": False, "compare": False}
    assert before["bytes_to_fetch"] == sizes
    ended(api, drain, submit(api))
    after = api.post(ask, json=pair()).json()
    assert set(after["cached"].values()) == {True}
    assert (after["runs_needed"], after["bytes_to_fetch"]) == (0, 0)


def test_another_content_than_expected_is_refused_before_it_is_fetched(api: TestClient, hub: Hub) -> None:
    assert refused(api, expected_weights_digest="0" * 64) == (409, "weights_digest_mismatch")
    assert submit(api, expected_weights_digest=digest_of("dpo-short"))["status"] == 202
    assert hub.sent("cdn GET *") < 100_000


# what is fetched


def test_weights_are_fetched_once_for_all_runs_of_a_host(api: TestClient, drain: Drain, hub: Hub) -> None:
    ended(api, drain, submit(api))
    sizes = {name: (BUNDLED / name / WEIGHTS).stat().st_size for name in ("sft", "dpo-short")}
    assert sum(sizes.values()) <= hub.sent("cdn GET *") < 1.1 * sum(sizes.values())
    # Other prompts: another trace of files that are here.
    hub.forget()
    ended(api, drain, submit(api, prompt_set="hh-harmless-512"))
    assert hub.sent("cdn GET *") == 0


def test_same_size_corruption_is_never_measured_and_fails_no_run_where_the_next_try_is_good(
    api: TestClient, drain: Drain, hub: Hub
) -> None:
    audit = submit(api)
    hub.inject(Fault("cdn GET *", times=1, corrupt=True))
    found = ended(api, drain, audit)
    trace = api.get(f"/v1/traces/{found['candidate_trace']}").json()
    assert trace["model"]["weights_digest"] == digest_of("dpo-short")


def test_content_that_is_never_what_the_hub_declares_fails_the_run_and_leaves_nothing(
    api: TestClient, drain: Drain, hub: Hub, api_settings: Settings
) -> None:
    audit = submit(api)
    hub.inject(Fault("cdn GET *", corrupt=True))
    drain()
    found = api.get(audit["links"]["self"]).json()
    assert (found["state"], found["error"]["code"]) == ("FAILED", "weights_corrupt")
    sizes = [path.stat().st_size for path in (api_settings.model_store / "blobs").rglob("*") if path.is_file()]
    assert max(sizes, default=0) < (BUNDLED / "sft" / WEIGHTS).stat().st_size
    hub.heal()
    ended(api, drain, submit(api))


def test_what_rots_in_the_store_is_found_when_it_is_loaded_and_fetched_anew(
    api: TestClient, drain: Drain, hub: Hub, api_settings: Settings
) -> None:
    ended(api, drain, submit(api))
    for blob in (api_settings.model_store / "blobs").rglob("*"):
        if blob.is_file() and blob.stat().st_size == (BUNDLED / "sft" / WEIGHTS).stat().st_size:
            raw = blob.read_bytes()
            blob.chmod(0o600)
            blob.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    audit = submit(api, prompt_set="hh-harmless-512")
    drain()
    found = api.get(audit["links"]["self"]).json()
    assert (found["state"], found["error"]["code"]) == ("FAILED", "weights_corrupt")
    ended(api, drain, submit(api, prompt_set="hh-harmless-512"))


# a hub that is away


def test_a_hub_that_is_away_is_told_as_that(api: TestClient, hub: Hub) -> None:
    hub.away()
    answer = api.post("/v1/audits", json=pair())
    assert (answer.status_code, answer.json()["code"]) == (503, "source_unavailable")
    assert answer.headers["Retry-After"]
    hub.back()
    hub.inject(Fault("hub GET /api/*", times=1, status=429, headers={"Retry-After": "37"}))
    answer = api.post("/v1/audits", json=pair())
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "37")
    assert submit(api)["status"] == 202


def test_a_hub_that_goes_away_costs_a_run_no_attempt(
    api: TestClient, drain: Drain, hub: Hub, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(
        get_settings(), "__dict__", vars(get_settings()) | {"source_answer_s": 0.2, "ring_again_s": 0.0}
    )
    audit = submit(api)
    hub.away()
    with ledger.begin() as session:
        due = rings.due_runs(session, ring_again_s=0.0, again=("cpu",))
    for number, run in enumerate(due):
        tasks.perform(run.run_id, f"test/away-{number}")
    shown = api.get(audit["links"]["self"]).json()
    assert shown["state"] in ("QUEUED", "RUNNING")
    hub.back()
    ended(api, drain, audit)
    with ledger.read() as session:
        assert not violations(session)


def test_a_store_that_this_host_may_not_use_is_no_fault_of_a_run_or_a_caller(
    api: TestClient, drain: Drain, hub: Hub, api_settings: Settings, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(get_settings(), "__dict__", vars(get_settings()) | {"ring_again_s": 0.0})
    audit = submit(api)
    api_settings.model_store.chmod(0o777)
    with ledger.begin() as session:
        due = rings.due_runs(session, ring_again_s=0.0, again=("cpu",))
    for number, run in enumerate(due):
        tasks.perform(run.run_id, f"test/open-{number}")
    assert api.get(audit["links"]["self"]).json()["state"] in ("QUEUED", "RUNNING")
    assert refused(api, labels={"again": "1"}) == (503, "not_ready")
    api_settings.model_store.chmod(0o700)
    ended(api, drain, audit)


# what is not there, or not for everybody


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("hf:acme/none", "model_not_found"),
        ("hf:acme/sft@no-such-branch", "model_not_found"),
        ("hf:acme/sft@0123456", "model_not_found"),
        ("hf:other/sft", "source_refused"),
        ("hf:acme/../other", "model_reference_invalid"),
        ("hf:", "model_reference_invalid"),
        ("nowhere:x", "model_reference_invalid"),
        ("mlflow:chat/1", "model_reference_invalid"),
    ],
)
def test_what_cannot_be_used_is_refused_before_it_is_accepted(api: TestClient, name: str, code: str) -> None:
    assert refused(api, candidate=name) == (422, code)


def test_a_gated_repository_is_refused_by_its_own_reason(api: TestClient, hub: Hub) -> None:
    hub.add("acme/gated", BUNDLED / "sft", gated=True)
    hub.tokens[TOKEN] = ("acme/sft", "acme/dpo-short")
    assert refused(api, candidate="hf:acme/gated") == (422, "model_access_refused")
    hub.add("acme/private", BUNDLED / "sft", private=True)
    assert refused(api, candidate="hf:acme/private") == (422, "model_not_found")
    hub.tokens[TOKEN] = ("acme/*",)
    assert submit(api, candidate="hf:acme/gated")["status"] == 202


def test_no_secret_is_shown_logged_or_stored(
    api: TestClient, drain: Drain, hub: Hub, ledger: Ledger, capfd: pytest.CaptureFixture[str]
) -> None:
    found = ended(api, drain, submit(api))
    hub.inject(Fault("*", status=401))
    answers = [api.get(found["links"][link]).text for link in ("self", "report")]
    answers.append(api.post("/v1/audits", json=pair()).text)
    hub.heal()
    with ledger.read() as session:
        for table in ("runs", "audits", "traces", "comparisons", "run_attempts"):
            rows = session.connection().exec_driver_sql(f"SELECT t::text FROM {table} t").all()
            answers += [row[0] for row in rows]
    answers += [*capfd.readouterr()]
    assert not any(TOKEN in answer or "Signature" in answer for answer in answers)
    assert all(each.token in (None, TOKEN) for each in hub.requests("hub *"))
    assert all(each.token is None for each in hub.requests("cdn *"))


# adapters, registered names, series


def test_a_registered_name_keeps_the_commit_that_it_meant(api: TestClient, drain: Drain, hub: Hub) -> None:
    made = api.post("/v1/models", json={"name": "base", "reference": "hf:acme/sft"})
    assert made.status_code == 201, made.text
    commit = hub.repositories["acme/sft"].refs["main"]
    assert made.json()["reference"] == f"hf:acme/sft@{commit}"
    hub.repositories["acme/sft"].commit(BUNDLED / "dpo-short")
    audit = submit(api, reference="base")
    assert audit["pinned"]["reference"] == f"hf:acme/sft@{commit}"


def adapter(base: str, **more: Any) -> dict[str, bytes | Path]:
    """A LoRA of one projection of the bundled models."""
    width = json.loads((BUNDLED / "sft" / "config.json").read_text())["hidden_size"]
    module = "base_model.model.model.layers.3.self_attn.q_proj"
    rows = safe_open(BUNDLED / "sft" / WEIGHTS, "numpy").get_slice("model.layers.3.self_attn.q_proj.weight").get_shape()
    tensors = {
        f"{module}.lora_A.weight": np.full((2, width), 0.01, dtype=np.float32),
        f"{module}.lora_B.weight": np.full((rows[0], 2), 0.01, dtype=np.float32),
    }
    config = {
        "peft_type": "LORA", "base_model_name_or_path": base, "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM", **more,
    }  # fmt: skip
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": save(tensors)}


def test_an_adapter_is_measured_on_the_base_that_it_names_on_the_hub(api: TestClient, drain: Drain, hub: Hub) -> None:
    hub.add("acme/lora", adapter("acme/sft"))
    audit = submit(api, candidate="hf:acme/lora", reference="hf:acme/dpo-short")
    # A base that moves is the one that was submitted.
    hub.repositories["acme/sft"].commit(BUNDLED / "dpo-short")
    found = ended(api, drain, audit)
    trace = api.get(f"/v1/traces/{found['candidate_trace']}").json()
    moved = api.post("/v1/audits?validate_only=true", json=pair(candidate="hf:acme/lora")).json()
    assert trace["model"]["weights_digest"] != moved["candidate"]["weights_digest"]


def test_a_base_that_cannot_be_used_is_told_by_the_adapter_that_names_it(api: TestClient, hub: Hub) -> None:
    for base in ("other/base", "acme/none", "../../etc", "local:sft", "/models/sft"):
        hub.add("acme/lora", adapter(base))
        body = {"candidate": "hf:acme/lora", "prompt_set": PROMPTS}
        answer = api.post("/v1/audits", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "adapter_invalid"), base
    hub.add("acme/lora", adapter("acme/sft", revision="no-such-branch"))
    assert api.post("/v1/audits", json=body).json()["code"] == "adapter_invalid"


def test_an_adapter_in_a_folder_may_name_a_base_of_the_hub(
    api: TestClient, drain: Drain, hub: Hub, models: Path
) -> None:
    (models / "lora").mkdir()
    for name, content in adapter("acme/sft").items():
        assert isinstance(content, bytes)
        (models / "lora" / name).write_bytes(content)
    body = {"candidate": "local:lora", "prompt_set": PROMPTS}
    audit = api.post("/v1/audits", json=body).json()
    found = ended(api, drain, audit)
    trace = api.get(f"/v1/traces/{found['candidate_trace']}").json()
    assert trace["model"]["source"] == "local:lora"


def test_a_series_keeps_the_reference_that_it_began_with(api: TestClient, drain: Drain, hub: Hub) -> None:
    made = api.post("/v1/series", json={"reference": "hf:acme/sft", "prompt_set": PROMPTS})
    assert made.status_code == 201, made.text
    hub.repositories["acme/sft"].commit(BUNDLED / "dpo-short")
    members = {"members": [{"step": 1, "model": "hf:acme/dpo-short"}]}
    added = api.post(f"/v1/series/{made.json()['id']}/members", json=members)
    assert added.status_code in (200, 201, 202), added.text
    drain()
    found = api.get(f"/v1/series/{made.json()['id']}/document").json()
    assert [member["state"] for member in found["members"]] == ["measured"]


def test_an_audit_that_says_nothing_of_sources_is_shown_without_them(api: TestClient, ledger: Ledger) -> None:
    """As releases before wrote them."""
    audit = submit(api, candidate="local:dpo-short", reference="local:sft")
    assert audit["pinned"] == {"candidate": "local:dpo-short", "reference": "local:sft"}
    with ledger.begin() as session:
        session.execute(text("UPDATE audits SET spec = spec #- '{candidate,source}' #- '{reference}'"))
    shown = api.get(audit["links"]["self"])
    assert (shown.status_code, shown.json()["pinned"]) == (200, {})
