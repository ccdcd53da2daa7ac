"""A statement as it is signed: the envelope of DSSE, and the same inside a bundle of Sigstore.

References: "DSSE: Dead Simple Signing Envelope", protocol 1.0.2; ``sigstore_bundle.proto``.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spinal.attestations.keys import PublicKey, Signer
from spinal.documents.canonical import canonical_json
from spinal.errors import AttestationInvalid

PAYLOAD_TYPE = "application/vnd.in-toto+json"
BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_TYPES = (
    BUNDLE_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3",
    "application/vnd.dev.sigstore.bundle+json;version=0.2", "application/vnd.dev.sigstore.bundle+json;version=0.1",
)  # fmt: skip
MOST_BYTES = 16 * 2**20
MOST_SIGNATURES = 16
WHOLE = "take the file as it was given out, whole"


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of DSSE.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True)
class Envelope:
    """A payload with its signatures. Nothing of it is true before a signature was verified."""

    payload: bytes = field(repr=False)
    payload_type: str
    signatures: tuple[bytes, ...] = field(repr=False)

    def signed_by(self, keys: Sequence[PublicKey]) -> PublicKey | None:
        """The first of ``keys`` that has signed it. What it says of keys itself is a hint that nobody signed, and is
        not looked at."""
        message = pae(self.payload_type, self.payload)
        return next((key for key in keys if any(key.verifies(message, one) for one in self.signatures)), None)


def sealed(statement: dict[str, Any], signer: Signer) -> dict[str, Any]:
    """The envelope of a statement, as JSON."""
    payload = canonical_json(statement)
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": signer.public.id, "sig": base64.b64encode(signature).decode()}],
    }


def bundle_of(envelope: dict[str, Any]) -> dict[str, Any]:
    """The same as a bundle of Sigstore, for a key that is handed out: no certificate, and no entry of a log."""
    return {
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": {
            "publicKey": {"hint": envelope["signatures"][0]["keyid"]},
            # Without the member, as without anything in it, libraries take the bundle for a broken one.
            "tlogEntries": [],
        },
        "dsseEnvelope": envelope,
    }


def read_envelope(raw: bytes | str) -> Envelope:
    """The envelope in a file, or in a bundle of Sigstore. Raises AttestationInvalid."""
    if len(raw) > MOST_BYTES:
        raise AttestationInvalid(f"an attestation has at most {MOST_BYTES // 2**20} MiB", hint=WHOLE)
    found = json_object(raw, "the attestation")
    if "mediaType" in found:
        if found["mediaType"] not in BUNDLE_TYPES:
            raise AttestationInvalid("a bundle of a version that is not known", hint="versions 0.1 to 0.3 are")
        inside = found.get("dsseEnvelope")
        if not isinstance(inside, dict):
            raise AttestationInvalid("a bundle without an envelope (dsseEnvelope)", hint="signed statements have one")
        found = inside
    kind, signatures = found.get("payloadType"), found.get("signatures")
    if kind != PAYLOAD_TYPE:
        raise AttestationInvalid(f"an envelope whose payload is not {PAYLOAD_TYPE}", hint=WHOLE)
    if not isinstance(signatures, list) or not 0 < len(signatures) <= MOST_SIGNATURES:
        raise AttestationInvalid(f"an envelope with no signature, or with more than {MOST_SIGNATURES}", hint=WHOLE)
    signed = [one.get("sig") if isinstance(one, dict) else None for one in signatures]
    return Envelope(
        _decoded(found.get("payload"), "payload"), kind, tuple(_decoded(one, "signature") for one in signed)
    )


def json_object(raw: bytes | str, what: str) -> dict[str, Any]:
    """A JSON object in which no member is said twice: readers would differ on which one counts. Raises
    AttestationInvalid."""
    try:
        found = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise AttestationInvalid(f"{what} is not JSON that can be read in one way only", hint=WHOLE) from error
    if not isinstance(found, dict):
        raise AttestationInvalid(f"{what} is not a JSON object", hint=WHOLE)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _decoded(text: Any, what: str) -> bytes:
    try:
        # The protocol lets writers choose either alphabet.
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (AttributeError, ValueError, binascii.Error) as error:
        raise AttestationInvalid(f"an envelope whose {what} is not base64", hint=WHOLE) from error
