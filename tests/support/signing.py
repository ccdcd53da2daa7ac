"""Keys as files, and models signed as OpenSSF Model Signing does it, without sharing code with what verifies them."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def to_pem(key: Any) -> str:
    raw: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return raw.decode()


def public_pem(key: Any) -> str:
    raw: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw.decode()


def signed_model(folder: Path, key: Any, **changed: str | None) -> dict[str, Any]:
    """``model.sig`` of a folder, with an ECDSA key. ``changed``: other digests, or None for a file that is left out,
    by name with ``__`` for the dot."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    for name, digest in changed.items():
        files.pop(name.replace("__", "."), None)
        if digest is not None:
            files[name.replace("__", ".")] = digest
    return sealed_model(files, key)


def sealed_model(files: Mapping[str, str], key: Any, **members: Any) -> dict[str, Any]:
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(bytes.fromhex(files[name]))
    resources = [{"name": name, "algorithm": "sha256", "digest": files[name]} for name in sorted(files)]
    way = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["model.sig"]}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": way, "resources": resources},
    } | members
    payload = json.dumps(statement, indent=2).encode()
    kind = "application/vnd.in-toto+json"
    message = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload])
    hint = hashlib.sha256(public_pem(key).encode()).hexdigest()
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(key.sign(message, ECDSA(SHA256()))).decode(), "keyid": ""}],
        },
    }
