"""``awskms:///KEY``: a key of AWS KMS by its id, ARN or ``alias/NAME``; ``awskms://HOST/KEY`` where the server is
another.

Options: ``region``, ``access_key``, ``secret_key`` and, where there is one, ``session_token``; ``endpoint``
(``http://127.0.0.1:8080``) in place of the host.

References: ``GetPublicKey`` and ``Sign``, AWS KMS API Reference.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from spinal.attestations.keys import public_key_of
from spinal.attestations.signers.asking import HINT, KeyServer, RemoteKey, from_base64, member, option
from spinal.errors import AttestationKeyFailed
from spinal.net.signing import AccessKey, aws_headers
from spinal.net.targets import PORTS, target_of

NAME = "AWS KMS"


def open_key(named: str, options: Any) -> RemoteKey:
    host, _, key = named.partition("/")
    if not key:
        raise AttestationKeyFailed("awskms:// names a key behind the host", hint="awskms:///alias/NAME")
    region = option(options, "region", NAME)
    account = AccessKey(
        option(options, "access_key", NAME), option(options, "secret_key", NAME), options.get("session_token") or None
    )
    origin = options.get("endpoint", "").rstrip("/") or f"https://{host or f'kms.{region}.amazonaws.com'}"
    server = KeyServer(NAME, origin)

    def ask(action: str, body: dict[str, Any]) -> dict[str, Any]:
        raw, target = json.dumps(body).encode(), target_of(origin + "/")
        port = "" if target.port == PORTS[target.scheme] else f":{target.port}"
        headers = {"content-type": "application/x-amz-json-1.1", "x-amz-target": f"TrentService.{action}"}
        signed = aws_headers(
            account, region, "POST", f"{target.host}{port}", "/", "", headers, now=datetime.now(UTC),
            body_sha256=hashlib.sha256(raw).hexdigest(), service="kms", also=("content-type",),
        )  # fmt: skip
        return server.ask("POST", "/", signed, raw)

    public = _public(from_base64(member(ask("GetPublicKey", {"KeyId": key}), NAME, "PublicKey"), NAME))

    def sign(message: bytes) -> bytes:
        digest = base64.b64encode(hashlib.sha256(message).digest()).decode()
        asked = {"KeyId": key, "Message": digest, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
        return from_base64(member(ask("Sign", asked), NAME, "Signature"), NAME)

    return RemoteKey(public, NAME, sign)


def _public(der: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(der)
        if isinstance(key, EllipticCurvePublicKey):
            return public_key_of(key)
    except (ValueError, UnsupportedAlgorithm):
        pass
    raise AttestationKeyFailed("the key of AWS KMS is not ECC_NIST_P256", hint=HINT)
