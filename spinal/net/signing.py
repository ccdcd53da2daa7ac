"""What requests to object stores and key servers are signed with: AWS Signature Version 4, and the tokens of Google's
service accounts.

Pure functions of what is asked, the credentials and the time: nothing here looks for credentials.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

UNRESERVED = "-._~"
EMPTY_BODY = hashlib.sha256(b"").hexdigest()
TOKEN_SECONDS = 3600
"""The longest life that Google gives a token."""


@dataclass(frozen=True)
class AccessKey:
    """Credentials of an S3 account; the secrets are no part of its representation."""

    id: str
    secret: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def encoded_path(path: str) -> str:
    """A path as it is sent and signed: UTF-8, everything but ``A-Za-z0-9-._~/`` as ``%XX``."""
    return quote(path, safe="/" + UNRESERVED)


def encoded_query(query: Sequence[tuple[str, str]]) -> str:
    """A query as it is sent and signed, sorted by name."""
    return "&".join(sorted(f"{quote(name, safe=UNRESERVED)}={quote(value, safe=UNRESERVED)}" for name, value in query))


def aws_headers(
    key: AccessKey,
    region: str,
    method: str,
    host: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    *,
    now: datetime,
    body_sha256: str = EMPTY_BODY,
    service: str = "s3",
    also: Sequence[str] = (),
) -> dict[str, str]:
    """``headers`` and those that sign the request for a service.

    Parameters
    ----------
    host: as the header ``Host`` says it, with a port that is not the default one.
    path, query: as they are sent (:func:`encoded_path`, :func:`encoded_query`).
    headers: signed where they are ``x-amz-*`` or in ``also``; others pass unsigned, so that whatever stands between may
        change them.
    now: of a clock within 15 minutes of the server's, with a time zone.

    References
    ----------
    "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference.
    """
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    sent = {name.lower(): value for name, value in headers.items()}
    sent |= {"x-amz-date": stamp, "x-amz-content-sha256": body_sha256}
    if key.session_token is not None:
        sent["x-amz-security-token"] = key.session_token
    signed = {"host": host} | {name: value for name, value in sent.items() if name.startswith("x-amz-") or name in also}
    names = ";".join(sorted(signed))
    lines = "".join(f"{name}:{signed[name].strip()}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{body_sha256}"
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    secret = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={key.id}/{scope},SignedHeaders={names},Signature={signature}"
    return sent | {"authorization": authorization}


@dataclass(frozen=True)
class ServiceAccount:
    """A service account of Google Cloud, as its key file names it. The key is no part of its representation."""

    email: str
    key_id: str
    private_key: Any = field(repr=False)
    """An RSA key of the library ``cryptography``."""


def read_service_account(text: str) -> ServiceAccount:
    """The account of a key file in JSON. Raises ImportError without the library ``cryptography``, ValueError for
    anything but such a file; its text never repeats the file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        told = json.loads(text)
        email, key_id, pem = (told[name] for name in ("client_email", "private_key_id", "private_key"))
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, UnsupportedAlgorithm):
        # What these libraries say of a file may repeat parts of it.
        raise ValueError("no key file of a service account") from None
    if not (isinstance(key, RSAPrivateKey) and isinstance(email, str) and isinstance(key_id, str)):
        raise ValueError("no key file of a service account")
    return ServiceAccount(email, key_id, key)


def google_token(account: ServiceAccount, *, scope: str, now: datetime) -> str:
    """A bearer token that the account signs for itself: valid for an hour, no request to anybody needed.

    References
    ----------
    AIP-4111, "Self-signed JWT".
    """
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    issued = int(now.timestamp())
    head = {"alg": "RS256", "typ": "JWT", "kid": account.key_id}
    claims = {"iss": account.email, "sub": account.email, "scope": scope, "iat": issued, "exp": issued + TOKEN_SECONDS}
    signed = f"{_base64url(json.dumps(head).encode())}.{_base64url(json.dumps(claims).encode())}"
    return f"{signed}.{_base64url(account.private_key.sign(signed.encode(), PKCS1v15(), SHA256()))}"


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
