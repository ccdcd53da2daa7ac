"""Attestations on the wire."""

from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Field

from service.attestations.store import Attestation
from service.http.addresses import local
from spinal.attestations.keys import PublicKey
from spinal.attestations.statement import PREDICATES

Predicate = Literal["test-result", "svr"]
Rendering = Literal["dsse", "sigstore"]


class AttestationOut(BaseModel):
    """An attestation that was given out."""

    audit: UUID
    predicate: Predicate
    predicate_type: str = Field(examples=list(PREDICATES.values()))
    key_id: str = Field(description="sha256 of the public key (DER of SubjectPublicKeyInfo) that it verifies with.")
    link: str
    created_at: datetime

    @classmethod
    def of(cls, found: Attestation) -> Self:
        name = next(name for name, kind in PREDICATES.items() if kind == found.predicate_type)
        return cls(
            audit=found.audit_id,
            predicate=name,  # a key of PREDICATES
            predicate_type=found.predicate_type,
            key_id=found.key_id,
            link=local(f"/v1/audits/{found.audit_id}/attestation?predicate={name}"),
            created_at=found.created_at,
        )


class AttestationList(BaseModel):
    """At most one of each predicate and key."""

    items: list[AttestationOut]


ENVELOPE: dict[str, Any] = {
    "type": "object",
    "description": "The envelope of DSSE; with `format=sigstore` a bundle of Sigstore with the same inside.",
    "required": ["payload", "payloadType", "signatures"],
    "properties": {
        "payload": {"type": "string", "description": "base64 of the statement, in canonical JSON."},
        "payloadType": {"type": "string", "enum": ["application/vnd.in-toto+json"]},
        "signatures": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["keyid", "sig"],
                "properties": {
                    "keyid": {"type": "string"},
                    "sig": {
                        "type": "string",
                        "description": "base64: 64 bytes of Ed25519, or DER of ECDSA on P-256 with SHA-256.",
                    },
                },
            },
        },
    },
}
"""What the contract says of an attestation, which is sent as it was signed."""


class AttestationKeyOut(BaseModel):
    """What attestations are verified with."""

    key_id: str = Field(description="sha256 of the DER of SubjectPublicKeyInfo.")
    public_key: str = Field(description="PEM.")

    @classmethod
    def of(cls, key: PublicKey) -> Self:
        return cls(key_id=key.id, public_key=key.pem)
