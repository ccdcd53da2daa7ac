"""``gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V``: a key of Google Cloud KMS.

Options: ``account``, the key file of a service account in JSON; ``endpoint`` where the server is another.

References: ``getPublicKey`` and ``asymmetricSign`` of ``cryptoKeyVersions``, Cloud KMS API.
"""

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Any

from spinal.attestations.keys import read_public_key
from spinal.attestations.signers.asking import HINT, KeyServer, RemoteKey, from_base64, member, option
from spinal.errors import AttestationKeyFailed, UsageError
from spinal.net.signing import google_token, read_service_account

NAME = "Cloud KMS"
PART = r"[A-Za-z0-9_.:-]+"
KEY = re.compile(
    rf"projects/{PART}/locations/{PART}/keyRings/{PART}/cryptoKeys/{PART}/(?:cryptoKeyVersions|versions)/[0-9]+"
)
SCOPE = "https://www.googleapis.com/auth/cloudkms"
ALGORITHMS = ("EC_SIGN_P256_SHA256", "EC_SIGN_ED25519")


def open_key(named: str, options: Any) -> RemoteKey:
    if not KEY.fullmatch(named):
        raise AttestationKeyFailed(
            "gcpkms:// names one version of a key",
            hint="gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1",
        )
    name = re.sub("/versions/", "/cryptoKeyVersions/", named)
    try:
        account = read_service_account(option(options, "account", NAME))
    except ValueError:
        raise AttestationKeyFailed("the option 'account' is no key file of a service account", hint=HINT) from None
    server = KeyServer(NAME, (options.get("endpoint") or "https://cloudkms.googleapis.com").rstrip("/"))

    def ask(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        token = google_token(account, scope=SCOPE, now=datetime.now(UTC))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return server.ask(method, path, headers, None if body is None else json.dumps(body).encode())

    found = ask("GET", f"/v1/{name}/publicKey")
    algorithm = member(found, NAME, "algorithm")
    if algorithm not in ALGORITHMS:
        raise AttestationKeyFailed(f"the key of Cloud KMS is none of {', '.join(ALGORITHMS)}", hint=HINT)
    try:
        public = read_public_key(str(member(found, NAME, "pem")), "the key of Cloud KMS")
    except UsageError:
        raise AttestationKeyFailed("Cloud KMS shows a public key that is none", hint=HINT) from None

    def sign(message: bytes) -> bytes:
        digest = base64.b64encode(hashlib.sha256(message).digest()).decode()
        whole = {"data": base64.b64encode(message).decode()}
        asked = whole if algorithm == "EC_SIGN_ED25519" else {"digest": {"sha256": digest}}
        return from_base64(member(ask("POST", f"/v1/{name}:asymmetricSign", asked), NAME, "signature"), NAME)

    return RemoteKey(public, NAME, sign)
