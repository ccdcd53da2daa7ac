"""Keys that sign and verify: Ed25519 and ECDSA on P-256 sign; those of models may lie on P-384 and P-521, too."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from spinal.errors import AttestationKeyFailed, UsageError

KINDS = "Ed25519 and ECDSA on P-256"
HINT = "for example: openssl genpkey -algorithm ed25519"


@dataclass(frozen=True, eq=False)
class PublicKey:
    """What a signature is held to."""

    pem: str
    """SubjectPublicKeyInfo."""
    id: str
    """sha256 of its DER, 64 hex digits."""
    key: Any = field(repr=False)
    """Of the library ``cryptography``."""

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Whether its holder has signed ``message``."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey

        try:
            if isinstance(self.key, EllipticCurvePublicKey):
                self.key.verify(signature, message, ECDSA(_hash_of(self.key)))
            else:
                self.key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer(Protocol):
    """A private key, wherever it is."""

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """A signature: 64 bytes of Ed25519, or DER of ECDSA with SHA-256. Raises AttestationKeyFailed."""
        ...


@dataclass(frozen=True, eq=False)
class PrivateKey:
    """A key in this process."""

    public: PublicKey
    _key: Any = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, EllipticCurvePrivateKey):
            return bytes(self._key.sign(message, ECDSA(SHA256())))
        return bytes(self._key.sign(message))


def read_private_key(pem: bytes) -> PrivateKey:
    """The key of a PEM file. Raises AttestationKeyFailed, whose text repeats nothing of it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(pem, password=None)
        public = public_key_of(key.public_key())
    except TypeError:
        raise AttestationKeyFailed("the key of attestations is encrypted", hint="give it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise AttestationKeyFailed(f"the key of attestations is no private key of {KINDS} in PEM", hint=HINT) from None
    return PrivateKey(public, key)


def read_public_key(pem: bytes | str, origin: str, *, of_models: bool = False) -> PublicKey:
    """A public key in PEM; those ``of_models`` may lie on the larger curves. Raises UsageError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        return public_key_of(load_pem_public_key(pem.encode() if isinstance(pem, str) else pem), of_models=of_models)
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(
            f"{origin} is no public key of {KINDS} in PEM", hint="for example: openssl pkey -in key.pem -pubout"
        ) from None


def public_key_of(key: Any, *, of_models: bool = False) -> PublicKey:
    """A key of the library; raises ValueError for one of another kind."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    curves = ("secp256r1", "secp384r1", "secp521r1") if of_models else ("secp256r1",)
    known = isinstance(key, Ed25519PublicKey) or (isinstance(key, EllipticCurvePublicKey) and key.curve.name in curves)
    if not known:
        raise ValueError(f"neither of {KINDS}")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(pem.decode(), hashlib.sha256(der).hexdigest(), key)


def _hash_of(key: Any) -> Any:
    """The hash that belongs to a curve, as Sigstore has it."""
    from cryptography.hazmat.primitives import hashes

    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.key_size]
