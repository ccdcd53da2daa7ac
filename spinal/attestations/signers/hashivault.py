"""``hashivault://KEY``: a key of the transit engine of HashiCorp Vault, or OpenBao.

Options: ``address`` (``https://vault:8200``), ``token``, and where they differ ``mount`` (``transit``) and
``namespace``.

References: "Transit secrets engine (API)", Vault documentation.
"""

import base64
import json
import re
from typing import Any

from spinal.attestations.keys import PublicKey, public_key_of, read_public_key
from spinal.attestations.signers.asking import HINT, KeyServer, RemoteKey, from_base64, member, option
from spinal.errors import AttestationKeyFailed, UsageError

NAME = "Vault"
PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,128}(?:/[A-Za-z0-9_.-]{1,128}){0,8}")


def open_key(key: str, options: Any) -> RemoteKey:
    """The newest version of the key as it is now: one that is rotated later is taken up when the service starts again,
    since another version is another key."""
    address, mount = option(options, "address", NAME).rstrip("/"), options.get("mount", "transit")
    if not PLAIN.fullmatch(key) or "/" in key or not PLAIN.fullmatch(mount):
        raise AttestationKeyFailed("hashivault:// names a key, without a path", hint="hashivault://NAME")
    headers = {"X-Vault-Token": option(options, "token", NAME), "Content-Type": "application/json"}
    if options.get("namespace"):
        headers["X-Vault-Namespace"] = options["namespace"]
    server = KeyServer(NAME, address)
    found = server.ask("GET", f"/v1/{mount}/keys/{key}", headers)
    kind, version = member(found, NAME, "data", "type"), member(found, NAME, "data", "latest_version")
    public = _public(kind, member(found, NAME, "data", "keys", str(version), "public_key"))
    hashed = "/sha2-256" if kind == "ecdsa-p256" else ""

    def sign(message: bytes) -> bytes:
        body: dict[str, Any] = {"input": base64.b64encode(message).decode(), "key_version": version}
        if hashed:
            body |= {"prehashed": False, "marshaling_algorithm": "asn1"}
        answer = server.ask("POST", f"/v1/{mount}/sign/{key}{hashed}", headers, json.dumps(body).encode())
        # vault:v3:BASE64
        return from_base64(str(member(answer, NAME, "data", "signature")).rpartition(":")[2], NAME)

    return RemoteKey(public, NAME, sign)


def _public(kind: Any, text: Any) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        if kind == "ed25519":
            return public_key_of(Ed25519PublicKey.from_public_bytes(from_base64(text, NAME)))
        if kind == "ecdsa-p256":
            return read_public_key(str(text), "the key of Vault")
    except (ValueError, UsageError):
        raise AttestationKeyFailed("Vault shows a public key that is none", hint=HINT) from None
    raise AttestationKeyFailed(
        "the key of Vault is neither ed25519 nor ecdsa-p256",
        hint="vault write transit/keys/NAME type=ed25519",
    )
