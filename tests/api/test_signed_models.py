"""Models that somebody has signed: what is measured is what was signed, or nothing is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from fastapi.testclient import TestClient
from sqlalchemy import text

from service.app import create_app
from service.database.unit_of_work import Ledger
from service.settings import Settings
from tests.support.engine_double import calls
from tests.support.signing import public_pem, sealed_model, signed_model

Drain = Callable[[], int]
PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}


@pytest.fixture(scope="module")
def signer() -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


@pytest.fixture
def trusting(api_settings: Settings, signer: EllipticCurvePrivateKey, tmp_path: Path) -> Iterator[TestClient]:
    pem = tmp_path / "signer.pem"
    pem.write_text(public_pem(signer))
    chosen = api_settings.model_copy(update={"model_signers": (pem,), "tenant_model_signers": {"strict": ()}})
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client:
        yield client


def submit(api: TestClient, signature: dict[str, Any] | None) -> dict[str, Any]:
    answer = api.post("/v1/audits", json=PAIR | ({} if signature is None else {"signature": json.dumps(signature)}))
    assert answer.status_code in (201, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_signed_model_is_audited_and_says_by_whom_it_is_signed(
    trusting: TestClient, drain: Drain, models: Path, signer: EllipticCurvePrivateKey, double: Path
) -> None:
    unsigned = submit(trusting, None)
    drain()
    measured = calls(double)
    audit = submit(trusting, signed_model(models / "dpo-short", signer))
    # The same content was measured before: its files are held to the signature all the same.
    assert (audit["state"] in ("QUEUED", "RUNNING"), unsigned["signed_by"]) == (True, None)
    drain()
    ended = trusting.get(f"/v1/audits/{audit['id']}").json()
    assert (ended["state"], len(ended["signed_by"])) == ("SUCCEEDED", 64)
    assert [call[1] for call in calls(double)].count("measure") == [call[1] for call in measured].count("measure")


OTHER = "0" * 64
WRONG = {
    "another byte": {"model__safetensors": OTHER},
    "another configuration": {"config__json": OTHER},
    "a file beside": {"generation_config__json": OTHER},
    "not listed": {"tokenizer__json": None},
    "missing weights": {"model-00002-of-00002__safetensors": OTHER},
    "missing settings": {"special_tokens_map__json": OTHER},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG.keys())
@pytest.mark.parametrize("known", [False, True], ids=["new", "measured before"])
def test_files_that_were_not_signed_are_not_measured(
    trusting: TestClient,
    drain: Drain,
    models: Path,
    signer: EllipticCurvePrivateKey,
    double: Path,
    ledger: Ledger,
    changed: dict[str, str | None],
    known: bool,
) -> None:
    if known:
        submit(trusting, None)
        drain()
    before = [call for call in calls(double) if call[2] == "local:dpo-short"]
    audit = submit(trusting, signed_model(models / "dpo-short", signer, **changed))
    drain()
    ended = trusting.get(f"/v1/audits/{audit['id']}").json()
    assert (ended["state"], ended["error"]["code"]) == ("FAILED", "model_signature_mismatch")
    assert [call for call in calls(double) if call[2] == "local:dpo-short"] == before
    with ledger.read() as session:
        tried = text("SELECT max(charged_attempts) FROM runs WHERE spec ? 'signed' AND kind = 'trace'")
        assert session.execute(tried).scalar_one() == 1


def refused(api: TestClient, signature: Any) -> tuple[int, str]:
    sent = signature if isinstance(signature, str) else json.dumps(signature)
    answer = api.post("/v1/audits", json=PAIR | {"signature": sent})
    return answer.status_code, answer.json()["code"]


def test_whoever_is_not_trusted_signs_nothing(
    trusting: TestClient, api: TestClient, models: Path, signer: EllipticCurvePrivateKey
) -> None:
    folder = models / "dpo-short"
    by_another = signed_model(folder, generate_private_key(SECP256R1()))
    assert refused(trusting, by_another) == (422, "model_signature_untrusted")
    # Where no key is trusted, none is.
    assert refused(api, signed_model(folder, signer)) == (422, "model_signature_untrusted")
    unsigned = signed_model(folder, signer)
    unsigned["dsseEnvelope"]["signatures"] = []
    assert refused(trusting, unsigned) == (422, "model_signature_invalid")
    swapped = signed_model(folder, signer)
    swapped["dsseEnvelope"]["payload"] = by_another["dsseEnvelope"]["payload"][:-8] + "AAAA"
    assert refused(trusting, swapped)[0] == 422


STRANGE: dict[str, dict[str, Any]] = {
    "predicate": {"predicateType": "https://in-toto.io/attestation/test-result/v0.1"},
    "type": {"_type": "https://in-toto.io/Statement/v0.1"},
    "no files": {"predicate": {"serialization": {"method": "files", "hash_type": "sha256"}}},
    "shards": {"predicate": {"serialization": {"method": "shards", "hash_type": "sha256"}, "resources": []}},
    "subject": {"subject": [{"name": "m", "digest": {"sha256": OTHER}}]},
    "two subjects": {"subject": [{"name": "m"}, {"name": "n"}]},
}


@pytest.mark.parametrize("members", STRANGE.values(), ids=STRANGE.keys())
def test_a_signature_of_something_else_is_not_understood(
    trusting: TestClient, signer: EllipticCurvePrivateKey, members: dict[str, Any]
) -> None:
    signature = sealed_model({"model.safetensors": OTHER}, signer, **members)
    assert refused(trusting, signature) == (422, "model_signature_invalid")


@pytest.mark.parametrize("name", ["a\x00.safetensors", "a\ud800.safetensors", "a\n.safetensors"])
def test_names_that_nobody_could_keep_are_refused(
    trusting: TestClient, signer: EllipticCurvePrivateKey, name: str
) -> None:
    assert refused(trusting, sealed_model({name: OTHER}, signer)) == (422, "model_signature_invalid")


@pytest.mark.parametrize(
    "signature", [{}, {"mediaType": "x"}, {"payload": "!"}, {"dsseEnvelope": {}}, "no JSON", "[" * 100_000, "NaN"]
)
def test_what_is_no_signature_is_refused(trusting: TestClient, signature: Any) -> None:
    assert refused(trusting, signature) == (422, "model_signature_invalid")


def test_weights_that_lie_unread_among_many_files_are_not_missing(
    trusting: TestClient, drain: Drain, models: Path, signer: EllipticCurvePrivateKey
) -> None:
    for name in ("a.txt", "b.txt", "c.txt", "d.txt", "e.txt", "f.txt", "g.txt", "zz.safetensors"):
        (models / "dpo-short" / name).write_text("beside")
    audit = submit(trusting, signed_model(models / "dpo-short", signer))
    drain()
    ended = trusting.get(f"/v1/audits/{audit['id']}").json()
    assert (ended["state"], ended["error"]) == ("SUCCEEDED", None)
