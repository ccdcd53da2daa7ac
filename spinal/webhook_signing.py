"""Signatures of webhooks: https://www.standardwebhooks.com, version 1.0.0 of the specification.

Secrets: ``whsec_`` and base64 (``v1``, HMAC-SHA256; bytes are taken as they are), ``whsk_`` (``v1a``, signs) and
``whpk_`` (``v1a``, verifies), both Ed25519. ``cryptography`` is imported where a key of the latter two is used.
"""

import binascii
import hashlib
import hmac
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

from spinal.errors.deliveries import SignatureInvalid
from spinal.errors.documents import UsageError

Secret = str | bytes
SHARED, SIGNS, VERIFIES = "whsec_", "whsk_", "whpk_"
TOLERANCE_S = 300
FEWEST_BYTES, MOST_BYTES = 16, 512
"""Of a shared secret in base64. The specification asks for 24 to 64 of whoever makes one."""
MESSAGE_ID = re.compile(r"[\x21-\x2d\x2f-\x7e]{1,256}")
"""Without a dot, which ends it in what is signed: ``a.1`` at 2 would be ``a`` at 1."""
TIMESTAMP = re.compile(r"[0-9]{1,12}")
MOST_SIGNATURES = 16
"""More are not looked at: each costs a computation where a key signs."""
SEED_BYTES = 32


def sign(secret: Secret, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, as it stands in ``webhook-signature``: ``v1,...`` or ``v1a,...``. ``timestamp``: seconds since
    1970, the time of sending. Raises UsageError for a malformed secret or id.

    >>> sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
    ...      b'{"test": 2432232314}')
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    if not MESSAGE_ID.fullmatch(message_id):
        raise UsageError("the id of a message has 1 to 256 visible characters of ASCII, and no dot")
    content = _content(message_id, str(int(timestamp)), body)
    if isinstance(secret, str) and secret.startswith(SIGNS):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.from_private_bytes(_decoded(secret, SIGNS)[:SEED_BYTES])
        return f"v1a,{b64encode(key.sign(content)).decode()}"
    return f"v1,{b64encode(_mac(_shared(secret), content)).decode()}"


def verify(
    secret: Secret | Sequence[Secret],
    message_id: str | None,
    timestamp: str | None,
    signatures: str | None,
    body: bytes,
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> None:
    """Raises SignatureInvalid unless one of ``signatures`` (separated by spaces, as in the header) is by one of the
    secrets, and the time of sending is within ``tolerance_s`` of ``now``. Raises UsageError for a malformed secret.
    The other arguments may be whatever somebody sent; None where nothing was."""
    if not (message_id and MESSAGE_ID.fullmatch(message_id)):
        raise SignatureInvalid("the id of the message is absent or malformed")
    if not (timestamp and TIMESTAMP.fullmatch(timestamp)):
        raise SignatureInvalid("the time of the message is absent, or no whole number of seconds")
    if not signatures:
        raise SignatureInvalid("the message has no signature")
    # All are read before anything is said: whether a secret is malformed does not depend on what somebody sent.
    secrets = [secret] if isinstance(secret, (str, bytes)) else list(secret)
    checks = [_check_of(each) for each in secrets]
    content = _content(message_id, timestamp, body)
    sent = [_read(each) for each in signatures.split(" ")[:MOST_SIGNATURES]]
    if not any(check(sent, content) for check in checks):
        raise SignatureInvalid("no signature of the message is by this secret")
    away_s = int(timestamp) - (time.time() if now is None else now)
    if abs(away_s) > tolerance_s:
        when = "in the future" if away_s > 0 else "ago"
        raise SignatureInvalid(f"the message was signed {abs(away_s):.0f} s {when}; {tolerance_s:.0f} s are allowed")


def verify_headers(
    secret: Secret | Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    *,
    prefix: str = "webhook-",
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> str:
    """As :func:`verify`, with ``{prefix}id``, ``-timestamp`` and ``-signature`` in any case; returns the id."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        if name.lower() in found:
            raise SignatureInvalid(f"the header {name.lower()[:100]} came twice")
        found[name.lower()] = value
    message_id, timestamp, signatures = (found.get(f"{prefix}{part}") for part in ("id", "timestamp", "signature"))
    verify(secret, message_id, timestamp, signatures, body, tolerance_s=tolerance_s, now=now)
    return str(message_id)


def shared_secret(key: bytes) -> str:
    """Bytes as a secret for ``v1``."""
    return f"{SHARED}{b64encode(key).decode()}"


def key_pair(seed: bytes) -> tuple[str, str]:
    """The signing and the verifying key of ``v1a`` that 32 bytes stand for."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return f"{SIGNS}{b64encode(seed + public).decode()}", f"{VERIFIES}{b64encode(public).decode()}"


def key_of(secret: str) -> bytes:
    """What a secret verifies by: the same for the same key, however its base64 ends. Raises UsageError."""
    prefix = VERIFIES if secret.startswith(VERIFIES) else SHARED
    return prefix.encode() + _decoded(secret, prefix)


class _Shared:
    def __init__(self, key: bytes) -> None:
        self._key = key

    def __call__(self, sent: Sequence[tuple[str, bytes]], content: bytes) -> bool:
        """Computed once, however many were sent: whoever sends them need not have signed anything."""
        ours = _mac(self._key, content)
        return any(version == "v1" and hmac.compare_digest(ours, signature) for version, signature in sent)


class _Public:
    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._key = Ed25519PublicKey.from_public_bytes(key)

    def __call__(self, sent: Sequence[tuple[str, bytes]], content: bytes) -> bool:
        return any(version == "v1a" and self._is_by(signature, content) for version, signature in sent)

    def _is_by(self, signature: bytes, content: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(signature, content)
        except InvalidSignature:
            return False
        return True


def _check_of(secret: Secret) -> _Shared | _Public:
    if isinstance(secret, str) and secret.startswith(VERIFIES):
        return _Public(_decoded(secret, VERIFIES))
    return _Shared(_shared(secret))


def _content(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _mac(key: bytes, content: bytes) -> bytes:
    return hmac.new(key, content, hashlib.sha256).digest()


def _read(signature: str) -> tuple[str, bytes]:
    """Version and bytes; of one that is malformed no bytes, which nothing equals."""
    version, _, encoded = signature.partition(",")
    try:
        return version, b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return version, b""


def _shared(secret: Secret) -> bytes:
    if isinstance(secret, bytes):
        if not secret:
            raise UsageError("the secret of a webhook is empty")
        return secret
    return _decoded(secret, SHARED)


def _decoded(secret: str, prefix: str) -> bytes:
    """The bytes of a secret, of which nothing is shown. Padding may be left out, as by others."""
    least, most = {SHARED: (FEWEST_BYTES, MOST_BYTES), SIGNS: (64, 64), VERIFIES: (32, 32)}[prefix]
    encoded = secret.removeprefix(prefix).rstrip("=")
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not (secret.startswith(prefix) and least <= len(key) <= most):
        raise UsageError(
            f"the secret of a webhook is {prefix} and base64 of {least}{'' if least == most else f' to {most}'} bytes",
            hint="take it as it was shown when the webhook was made",
        )
    return key
