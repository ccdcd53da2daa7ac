"""Attestations over HTTP: who gets one, that it stays the same, and that what the files hold is what is signed."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anyio import CapacityLimiter
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi.testclient import TestClient
from pydantic import SecretStr
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from sqlalchemy import text

from service.app import create_app
from service.attestations import signing
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.operations.invariants import violations
from service.settings import Settings
from spinal.attestations.statement import PASSED, SVR, TEST_RESULT, policy_property
from spinal.errors import AttestationKeyFailed
from tests.support.served import application
from tests.support.signing import public_pem, to_pem

Drain = Callable[[], int]
PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
LENIENT = {
    "name": "lenient/1",
    "rules": [
        {"name": "quiet", "value": "damage.nll_change", "bad": "above", "limit": 1e6, "severity": "fail"},
    ],
}
STRICT = {
    "name": "strict/1",
    "rules": [{"name": "gap", "value": "damage.gap", "bad": "above", "limit": -1.0, "severity": "fail"}],
}
WAIVED = {
    "name": "waived/1",
    "rules": [STRICT["rules"][0] | {"waiver": {"reason": "known", "expires": "2099-01-01"}}],  # type: ignore[operator]  # a mapping, in a list
}


@pytest.fixture(params=["ed25519", "p256"])
def key(request: pytest.FixtureRequest) -> Any:
    return Ed25519PrivateKey.generate() if request.param == "ed25519" else generate_private_key(SECP256R1())


@pytest.fixture
def attesting(api_settings: Settings, key: Any) -> Iterator[TestClient]:
    chosen = api_settings.model_copy(
        update={"attestation_key": SecretStr(to_pem(key)), "public_url": "https://audits.example/spinal"}
    )
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client:
        yield client


def audited(api: TestClient, drain: Drain, policy: dict[str, Any] | None = None, **changes: Any) -> str:
    if policy is not None:
        assert api.post("/v1/policies", json=policy).status_code in (200, 201)
        changes["policy"] = policy["name"]
    answer = api.post("/v1/audits", json=PAIR | changes)
    assert answer.status_code in (201, 202), answer.text
    drain()
    found: str = answer.json()["id"]
    return found


def statement(envelope: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(envelope["payload"]))
    return found


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_audit_that_passed_is_attested_so_that_others_verify_it(
    attesting: TestClient, drain: Drain, key: Any, models: Path
) -> None:
    audit = audited(attesting, drain, LENIENT)
    shown = attesting.get("/v1/attestation-key").json()
    assert shown["public_key"] == public_pem(key)
    names = {"svr": SVR, "test-result": TEST_RESULT}
    for predicate, kind in names.items():
        answer = attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": predicate})
        assert answer.status_code == 200, answer.text
        # A library of somebody else finds the signature, and refuses it over another payload.
        others = SSlibKey.from_crypto(key.public_key(), keyid=shown["key_id"])
        assert Envelope.from_dict(answer.json()).verify([others], 1) == {shown["key_id"]: others}
        altered = answer.json() | {"payload": base64.b64encode(b"{}").decode()}
        with pytest.raises(VerificationError):
            Envelope.from_dict(altered).verify([others], 1)
        said = statement(answer.json())
        assert (said["_type"], said["predicateType"]) == ("https://in-toto.io/Statement/v1", kind)
        weights = models / "dpo-short" / "model.safetensors"
        assert said["subject"] == [{"name": "model.safetensors", "digest": {"sha256": sha256(weights)}}]
        own = said["predicate"]["spinal"]
        assert own["files"] == {
            name: sha256(models / "dpo-short" / name)
            for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
        }
        assert own["weightsDigest"] == attesting.get(f"/v1/audits/{audit}").json()["weights"]["candidate"]
    passed = statement(attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": "svr"}).json())
    policy = attesting.get("/v1/policies/lenient/1").json()["digest"]
    assert passed["predicate"]["properties"] == [PASSED, policy_property(policy)]
    told = statement(attesting.get(f"/v1/audits/{audit}/attestation").json())["predicate"]
    assert (told["result"], told["passedTests"], told["failedTests"]) == ("PASSED", ["quiet"], [])
    assert told["url"].startswith(f"https://audits.example/spinal/v1/audits/{audit}/report")
    configured = {one["name"]: one["digest"]["sha256"] for one in told["configuration"]}
    assert configured["policy"] == policy
    assert configured.keys() >= {"comparison", "profile", "prompt-set", "reference-weights"}
    assert told["spinal"]["values"][0]["test"] == "quiet"


def test_an_attestation_is_the_same_bytes_every_time_and_one_row(
    attesting: TestClient, drain: Drain, ledger: Ledger
) -> None:
    audit = audited(attesting, drain, LENIENT)
    assert attesting.get(f"/v1/audits/{audit}/attestations").json() == {"items": []}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: attesting.get(f"/v1/audits/{audit}/attestation").content, range(4)))
    assert len(set(answers)) == 1
    bundle = attesting.get(f"/v1/audits/{audit}/attestation", params={"format": "sigstore"}).json()
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"]["tlogEntries"] == []
    assert bundle["dsseEnvelope"] == json.loads(answers[0])
    listed = attesting.get(f"/v1/audits/{audit}/attestations").json()["items"]
    assert [(one["predicate"], one["predicate_type"]) for one in listed] == [("test-result", TEST_RESULT)]
    with ledger.read() as session:
        assert session.execute(text("SELECT count(*) FROM attestations")).scalar_one() == 1


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
@pytest.mark.parametrize(
    ("policy", "result", "code"),
    [(STRICT, "FAILED", "verdict_not_pass"), (WAIVED, "WARNED", "pass_rests_on_waiver")],
    ids=["fail", "waived"],
)
def test_what_did_not_pass_has_no_attestation_that_it_did(
    attesting: TestClient, drain: Drain, policy: dict[str, Any], result: str, code: str
) -> None:
    audit = audited(attesting, drain, policy)
    denied = attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": "svr"})
    assert (denied.status_code, denied.json()["code"]) == (404, code)
    told = statement(attesting.get(f"/v1/audits/{audit}/attestation").json())["predicate"]
    assert told["result"] == result
    assert told["passedTests"] == []
    waived = [(one["test"], one["wouldBe"], one["expires"]) for one in told["spinal"]["waivedTests"]]
    assert waived == ([] if result == "FAILED" else [("gap", "fail", "2099-01-01")])
    assert told["failedTests"] == (["gap"] if result == "FAILED" else [])


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_what_is_not_there_to_attest_says_why(
    attesting: TestClient, drain: Drain, double: Path, ledger: Ledger
) -> None:
    queued = attesting.post("/v1/audits", json=PAIR).json()["id"]
    assert attesting.get(f"/v1/audits/{queued}/attestation").json()["code"] == "audit_not_finished"
    attesting.post(f"/v1/audits/{queued}/cancel")
    assert attesting.get(f"/v1/audits/{queued}/attestation").json()["code"] == "not_attestable"
    alone = attesting.post("/v1/audits", json={k: v for k, v in PAIR.items() if k != "reference"}).json()["id"]
    drain()
    assert attesting.get(f"/v1/audits/{alone}/attestation").json()["code"] == "no_verdict"
    (double / "fail").write_text("non_finite_activations")
    failed = audited(attesting, drain, prompt_set="hh-harmless-128")
    assert attesting.get(f"/v1/audits/{failed}/attestation").json()["code"] == "not_attestable"
    (double / "fail").unlink()
    missing = "0197f5b2-0000-7000-8000-000000000000"
    assert attesting.get(f"/v1/audits/{missing}/attestation").json()["code"] == "audit_not_found"
    wrong = attesting.get(f"/v1/audits/{failed}/attestation", params={"predicate": "other"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "request_invalid")


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_an_audit_that_failed_behind_its_traces_is_attested_as_failed(
    attesting: TestClient, drain: Drain, double: Path
) -> None:
    for model in ("local:dpo-short", "local:sft"):
        attesting.post("/v1/audits", json={"candidate": model, "prompt_set": PAIR["prompt_set"]})
    drain()
    (double / "fail").write_text("non_finite_activations")
    audit = audited(attesting, drain)
    (double / "fail").unlink()
    told = statement(attesting.get(f"/v1/audits/{audit}/attestation").json())["predicate"]
    assert (told["result"], told["spinal"]["error"]) == ("FAILED", "non_finite_activations")
    assert "url" not in told
    denied = attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": "svr"})
    assert (denied.status_code, denied.json()["code"]) == (404, "verdict_not_pass")


def test_without_a_key_nothing_is_attested(api: TestClient, drain: Drain) -> None:
    audit = audited(api, drain, LENIENT)
    for path in (f"/v1/audits/{audit}/attestation", "/v1/attestation-key"):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (409, "no_attestation_key")


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_another_tenants_audit_is_not_there(
    attesting: TestClient, drain: Drain, api_settings: Settings, ledger: Ledger, key: Any
) -> None:
    audit = audited(attesting, drain, LENIENT)
    attesting.get(f"/v1/audits/{audit}/attestation")
    keyed = api_settings.model_copy(
        update={
            "auth": "required",
            "key_pepper": SecretStr("pepper"),
            "attestation_key": SecretStr(to_pem(key)),
        }
    )
    with ledger.begin() as session:
        other = create_key(session, tenant="another", scopes=("read",), pepper="pepper")
    with TestClient(create_app(keyed), raise_server_exceptions=False) as client:
        headers = {"Authorization": f"Bearer {other}"}
        for path in ("attestation", "attestations", "attestation?predicate=svr"):
            answer = client.get(f"/v1/audits/{audit}/{path}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (404, "audit_not_found")
        assert client.get("/v1/attestation-key").status_code == 401
        assert client.get("/v1/attestation-key", headers=headers).status_code == 200


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_a_key_that_is_rotated_signs_anew_and_what_was_given_stays(
    attesting: TestClient, drain: Drain, api_settings: Settings
) -> None:
    audit = audited(attesting, drain, LENIENT)
    first = attesting.get(f"/v1/audits/{audit}/attestation").json()
    rotated = api_settings.model_copy(update={"attestation_key": SecretStr(to_pem(Ed25519PrivateKey.generate()))})
    with TestClient(create_app(rotated), raise_server_exceptions=False) as client:
        second = client.get(f"/v1/audits/{audit}/attestation").json()
        assert len(client.get(f"/v1/audits/{audit}/attestations").json()["items"]) == 2
    assert first["signatures"] != second["signatures"]
    assert attesting.get(f"/v1/audits/{audit}/attestation").json() == first


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_the_doctor_finds_a_verdict_that_was_turned_round(
    attesting: TestClient, drain: Drain, settings: Settings
) -> None:
    audit = audited(attesting, drain, LENIENT)
    assert attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": "svr"}).status_code == 200
    ledger = Ledger(settings)
    with ledger.begin() as session:
        assert violations(session) == {}
    turned = """UPDATE audits SET verdict = 'fail',
                  verdict_document = jsonb_set(verdict_document, '{outcome}', '"fail"')"""
    back = """UPDATE audits SET verdict = 'pass',
                verdict_document = jsonb_set(verdict_document, '{outcome}', '"pass"')"""
    with ledger.begin() as session:
        session.execute(text("ALTER TABLE audits DISABLE TRIGGER USER"))
        session.execute(text(turned))
        found = violations(session)
        assert found.keys() == {"ended rows are guarded", "only an audit that passed is attested as passed"}
        session.execute(text(back))
        session.execute(text("ALTER TABLE audits ENABLE TRIGGER USER"))
        assert violations(session) == {}
    ledger.close()


def test_a_key_server_that_stalls_holds_up_nobody_else(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, goes_on = threading.Event(), threading.Event()

    def stalls(*_: Any) -> Any:
        asked.set()
        goes_on.wait(30)
        raise AttestationKeyFailed("it is away", hint="wait")

    monkeypatch.setattr(signing, "open_signer", stalls)
    monkeypatch.setattr(signing, "PATIENCE_S", 0.5)
    chosen = api_settings.model_copy(update={"attestation_key": SecretStr("hashivault://release")})
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client, ThreadPoolExecutor(60) as pool:
        try:
            waiting = [pool.submit(client.get, "/v1/attestation-key") for _ in range(59)]
            assert asked.wait(10)
            others = pool.submit(client.get, "/v1/audits")
            assert others.result(10).status_code == 200
        finally:
            goes_on.set()
        assert {each.result(30).status_code for each in waiting} == {503}


@pytest.mark.parametrize("key", ["ed25519"], indirect=True)
def test_what_was_signed_before_is_given_while_the_key_server_stalls(
    attesting: TestClient, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = audited(attesting, drain, LENIENT)
    given = attesting.get(f"/v1/audits/{audit}/attestation").json()
    monkeypatch.setattr(signing, "PATIENCE_S", 0.1)
    monkeypatch.setattr(application(attesting).state.signing, "_places", CapacityLimiter(0))
    assert attesting.get(f"/v1/audits/{audit}/attestation").json() == given
    denied = attesting.get(f"/v1/audits/{audit}/attestation", params={"predicate": "svr"})
    assert (denied.status_code, denied.json()["code"]) == (503, "attestation_key_failed")
