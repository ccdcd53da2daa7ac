"""Keys on key servers: each asked as its reference says, by a server that checks what it is asked."""

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from spinal.attestations.envelope import read_envelope, sealed
from spinal.attestations.signers import open_signer
from spinal.errors import AttestationKeyFailed
from tests.support.signing import public_pem, to_pem

P256, ED25519, OTHER = generate_private_key(SECP256R1()), Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
ACCOUNT = generate_rsa(65537, 2048)
KEYS: dict[str, Any] = {"p256": P256, "ed25519": ED25519}
Asked = tuple[str, str, dict[str, str], bytes]
Answering = Callable[[Asked], tuple[int, Any]]


@contextmanager
def server(answering: Answering) -> Iterator[str]:
    """A server on loopback; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, answer = answering((self.command, self.path, headers, body))
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_address[1]}"
        made.shutdown()


def signature(key: Any, message: bytes) -> bytes:
    raw: bytes = key.sign(message) if isinstance(key, Ed25519PrivateKey) else key.sign(message, ECDSA(SHA256()))
    return raw


def vault(name: str, signs: Any = None) -> Answering:
    """The transit engine: https://developer.hashicorp.com/vault/api-docs/secret/transit."""
    key = KEYS[name]
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) if name == "ed25519" else b""
    shown = base64.b64encode(raw).decode() if raw else public_pem(key)
    kind = "ed25519" if raw else "ecdsa-p256"

    def answer(asked: Asked) -> tuple[int, Any]:
        method, path, headers, body = asked
        if headers.get("x-vault-token") != "s.token" or headers.get("x-vault-namespace") != "ml":
            return 403, {"errors": ["permission denied"]}
        if (method, path) == ("GET", "/v1/transit/keys/release"):
            keys = {"1": {"public_key": "old"}, "2": {"public_key": shown}}
            return 200, {"data": {"type": kind, "latest_version": 2, "keys": keys}}
        told = json.loads(body)
        hashed = "" if raw else "/sha2-256"
        if (method, path, told["key_version"]) != ("POST", f"/v1/transit/sign/release{hashed}", 2):
            return 404, {"errors": []}
        if not raw and (told["prehashed"], told["marshaling_algorithm"]) != (False, "asn1"):
            return 400, {"errors": ["unsupported"]}
        made = signature(signs or key, base64.b64decode(told["input"]))
        return 200, {"data": {"signature": f"vault:v2:{base64.b64encode(made).decode()}", "key_version": 2}}

    return answer


def aws(name: str, signs: Any = None) -> Answering:
    """https://docs.aws.amazon.com/kms/latest/APIReference/API_Sign.html, signed for ``kms``."""
    key = KEYS[name]

    def answer(asked: Asked) -> tuple[int, Any]:
        method, path, headers, body = asked
        assert (method, path) == ("POST", "/")
        if headers["authorization"].rpartition("Signature=")[2] != _signature_of_amazons_library(headers, body):
            return 400, {"__type": "InvalidSignatureException"}
        told = json.loads(body)
        assert told["KeyId"] == "alias/release"
        if headers["x-amz-target"] == "TrentService.GetPublicKey":
            der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return 200, {"PublicKey": base64.b64encode(der).decode(), "KeySpec": "ECC_NIST_P256"}
        assert (told["MessageType"], told["SigningAlgorithm"]) == ("DIGEST", "ECDSA_SHA_256")
        made = (signs or key).sign(base64.b64decode(told["Message"]), ECDSA(Prehashed(SHA256())))
        return 200, {"Signature": base64.b64encode(made).decode()}

    return answer


def _signature_of_amazons_library(headers: dict[str, str], body: bytes) -> str:
    signed = headers.keys() & {"host", "content-type"} | {name for name in headers if name.startswith("x-amz-")}
    sent = {name: headers[name] for name in signed}
    request = AWSRequest("POST", f"http://{headers['host']}/", headers=sent, data=body)
    request.context["timestamp"] = headers["x-amz-date"]
    signing = SigV4Auth(Credentials("AKID", "secret"), "kms", "eu-west-1")
    text = signing.string_to_sign(request, signing.canonical_request(request))
    found: str = signing.signature(text, request)
    return found


GCP = "projects/p/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"


def gcp(name: str, signs: Any = None) -> Answering:
    """https://cloud.google.com/kms/docs/reference/rest, with a token that the account signs for itself."""
    key = KEYS[name]

    def answer(asked: Asked) -> tuple[int, Any]:
        _, path, headers, body = asked
        head, claims, signed = headers["authorization"].removeprefix("Bearer ").split(".")
        raw = base64.urlsafe_b64decode(signed + "=" * (-len(signed) % 4))
        ACCOUNT.public_key().verify(raw, f"{head}.{claims}".encode(), PKCS1v15(), SHA256())
        assert json.loads(base64.urlsafe_b64decode(claims + "=="))["scope"].endswith("/auth/cloudkms")
        if path == f"/v1/{GCP}/publicKey":
            algorithm = "EC_SIGN_ED25519" if name == "ed25519" else "EC_SIGN_P256_SHA256"
            return 200, {"pem": public_pem(key), "algorithm": algorithm}
        assert path == f"/v1/{GCP}:asymmetricSign"
        told = json.loads(body)
        if name == "ed25519":
            made = (signs or key).sign(base64.b64decode(told["data"]))
        else:
            made = key.sign(base64.b64decode(told["digest"]["sha256"]), ECDSA(Prehashed(SHA256())))
        return 200, {"signature": base64.b64encode(made).decode()}

    return answer


SERVICE_ACCOUNT = json.dumps({"client_email": "a@p", "private_key_id": "k", "private_key": to_pem(ACCOUNT)})
SERVERS: dict[str, tuple[str, Callable[..., Answering], Callable[[str], dict[str, str]]]] = {
    "vault": ("hashivault://release", vault, lambda at: {"address": at, "token": "s.token", "namespace": "ml"}),
    "aws": (
        "awskms:///alias/release",
        aws,
        lambda at: {"endpoint": at, "region": "eu-west-1", "access_key": "AKID", "secret_key": "secret"},
    ),
    "gcp": (f"gcpkms://{GCP}", gcp, lambda at: {"endpoint": at, "account": SERVICE_ACCOUNT}),
}
CASES = [("vault", "p256"), ("vault", "ed25519"), ("aws", "p256"), ("gcp", "p256"), ("gcp", "ed25519")]


@pytest.mark.parametrize(("where", "kind"), CASES)
def test_a_key_server_signs_what_its_public_key_verifies(where: str, kind: str) -> None:
    uri, answering, options = SERVERS[where]
    with server(answering(kind)) as address:
        signer = open_signer(uri, options(address))
        made = sealed({"a": 1}, signer)
    assert signer.public.pem == public_pem(KEYS[kind])
    assert made["signatures"][0]["keyid"] == signer.public.id
    assert read_envelope(json.dumps(made)).signed_by([signer.public]) == signer.public


@pytest.mark.parametrize("where", ["vault", "gcp"])
def test_what_another_key_has_signed_is_not_given_out(where: str) -> None:
    uri, answering, options = SERVERS[where]
    with server(answering("ed25519", OTHER)) as address:
        signer = open_signer(uri, options(address))
        with pytest.raises(AttestationKeyFailed, match="another key"):
            sealed({"a": 1}, signer)


SM2 = base64.b64encode(bytes.fromhex("3059301306072a8648ce3d020106082a811ccf5501822d03420004" + "01" * 64)).decode()
"""As AWS KMS has it in China."""
ANSWERS: dict[str, tuple[int, Any]] = {
    "refused": (403, {"errors": ["permission denied"], "__type": "AccessDeniedException", "error": {"code": 403}}),
    "no JSON": (200, b"<html>"),
    "nothing": (200, {}),
    "nulls": (200, {"data": None, "PublicKey": None, "pem": None, "algorithm": None}),
    "another kind": (200, {"data": {"type": "rsa-2048", "latest_version": 1, "keys": {"1": {"public_key": "x"}}},
                           "PublicKey": "AAAA", "pem": "x", "algorithm": "EC_SIGN_P256_SHA256"}),
    "a curve that no library knows": (200, {"PublicKey": SM2, "algorithm": "EC_SIGN_P256_SHA256",
                           "pem": f"-----BEGIN PUBLIC KEY-----\n{SM2}\n-----END PUBLIC KEY-----\n"}),
}  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("where", SERVERS)
def test_an_answer_that_is_no_key_is_an_error_that_repeats_no_secret(where: str, answer: tuple[int, Any]) -> None:
    uri, _, options = SERVERS[where]
    with server(lambda _: answer) as address, pytest.raises(AttestationKeyFailed) as refused:
        open_signer(uri, options(address))
    assert not any(secret in refused.value.detail for secret in ("s.token", "AKID", "PRIVATE"))


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("hashivault://a/b", {"address": "http://127.0.0.1:1", "token": "t"}),
        ("hashivault://key", {"token": "t"}),
        ("hashivault://key", {"address": "http://127.0.0.1:1"}),
        ("hashivault://key", {"address": "http://127.0.0.1:1", "token": "new\nline"}),
        ("hashivault://key", {"address": "http://user@127.0.0.1:1", "token": "t"}),
        ("hashivault://key", {"address": "file:///etc", "token": "t"}),
        ("awskms://host", {"region": "r"}),
        ("awskms:///key", {"region": "r", "access_key": "a"}),
        ("gcpkms://projects/p", {"account": SERVICE_ACCOUNT}),
        (f"gcpkms://{GCP}", {"account": "{}"}),
    ],
)
def test_a_key_that_is_not_described_whole_is_refused_with_what_to_do(uri: str, options: dict[str, str]) -> None:
    with pytest.raises(AttestationKeyFailed) as refused:
        open_signer(uri, options)
    assert refused.value.hint
