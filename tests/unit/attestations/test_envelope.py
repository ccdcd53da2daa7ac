"""Envelopes: read in one way only, held to keys that were given, and to nothing that they say of themselves."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256K1, SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from hypothesis import given
from hypothesis import strategies as st

from spinal.attestations.envelope import PAYLOAD_TYPE, bundle_of, pae, read_envelope, sealed
from spinal.attestations.keys import read_private_key, read_public_key
from spinal.attestations.signers import open_signer
from spinal.errors import AttestationInvalid, AttestationKeyFailed, UsageError
from tests.support.signing import public_pem, to_pem

OURS, OTHERS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SIGNER = read_private_key(to_pem(OURS).encode())
STATEMENT = {"_type": "https://in-toto.io/Statement/v1", "n": 1.5}
SEALED = sealed(STATEMENT, SIGNER)


def test_the_example_of_the_protocol() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


@pytest.mark.parametrize("key", [OURS, generate_private_key(SECP256R1())], ids=["ed25519", "p256"])
def test_what_was_sealed_is_read_back_from_either_rendering(key: Any) -> None:
    signer = read_private_key(to_pem(key).encode())
    made = sealed(STATEMENT, signer)
    for written in (made, bundle_of(made)):
        envelope = read_envelope(json.dumps(written))
        assert json.loads(envelope.payload) == STATEMENT
        other = read_public_key(public_pem(OTHERS), "other")
        assert envelope.signed_by([other, signer.public]) == signer.public
        assert envelope.signed_by([other]) is None


@given(st.integers(min_value=0), st.integers(1, 255))
def test_a_changed_byte_is_signed_by_nobody(place: int, change: int) -> None:
    payload = bytearray(base64.b64decode(SEALED["payload"]))
    payload[place % len(payload)] ^= change
    changed = SEALED | {"payload": base64.b64encode(payload).decode()}
    assert read_envelope(json.dumps(changed)).signed_by([SIGNER.public]) is None


def test_the_key_that_an_envelope_names_is_not_believed() -> None:
    signed = sealed(STATEMENT, read_private_key(to_pem(OTHERS).encode()))
    signed["signatures"][0]["keyid"] = SIGNER.public.id
    assert read_envelope(json.dumps(signed)).signed_by([SIGNER.public]) is None


TWICE = json.dumps(SEALED)[:-1] + ', "payload": "e30="}'
STRANGE: dict[str, Any] = {
    "nothing": "",
    "no object": "[]",
    "said twice": TWICE,
    "not a number": '{"payload": NaN}',
    "another payload": SEALED | {"payloadType": "application/json"},
    "no signature": SEALED | {"signatures": []},
    "many": SEALED | {"signatures": SEALED["signatures"] * 99},
    "no base64": SEALED | {"payload": "%%"},
    "number": SEALED | {"payload": 7},
    "signature of text": SEALED | {"signatures": ["x"]},
    "bundle of tomorrow": bundle_of(SEALED) | {"mediaType": "application/vnd.dev.sigstore.bundle.v9+json"},
    "bundle without": {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"},
    "deep": "[" * 100_000,
    "large": " " * (17 * 2**20),
}


@pytest.mark.parametrize("given", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_no_envelope_is_refused(given: Any) -> None:
    with pytest.raises(AttestationInvalid):
        read_envelope(given if isinstance(given, str) else json.dumps(given))


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    assert PAYLOAD_TYPE in json.dumps(SEALED)
    for key in (generate_rsa(65537, 2048), generate_private_key(SECP256K1()), generate_private_key(SECP384R1())):
        with pytest.raises(AttestationKeyFailed):
            open_signer(to_pem(key), {})
        with pytest.raises(UsageError):
            read_public_key(public_pem(key), "k")
    assert read_public_key(public_pem(generate_private_key(SECP384R1())), "k", of_models=True)
    (tmp_path / "secret.pem").write_text("-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n")
    for named in (str(tmp_path / "secret.pem"), str(tmp_path / "none.pem"), "oddkms://key", "azurekms://vault/key"):
        with pytest.raises(AttestationKeyFailed) as refused:
            open_signer(named, {})
        assert "hunter2" not in refused.value.detail
