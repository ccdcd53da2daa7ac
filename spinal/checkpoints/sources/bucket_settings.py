"""What an operator says of buckets: which may be used, where they are, and with which credentials."""

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from spinal.errors import UsageError
from spinal.net.http import Reachable
from spinal.net.signing import AccessKey, ServiceAccount, read_service_account

MOST_SECRET = 64 << 10
"""Bytes of a file with a secret."""
ALLOWED = re.compile(r"[a-z0-9*][a-z0-9._*-]*(/[^\x00-\x1f]*)?")


class BucketSettings(BaseModel):
    """Of either kind of store."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    allow: Annotated[tuple[str, ...], Field(min_length=1)]
    """Buckets that may be used: ``bucket``, ``team-*``; or folders in them: ``bucket/models/*``. ``*`` stands for any
    text, slashes included. What ``bucket/models/*`` allows lies below ``models/``, not beside it."""
    endpoint: str | None = None
    """``https://host[:port][/path]`` of a store that speaks the protocol; without, the provider's own. It may lie in a
    private network: naming it here allows its address."""
    allow_http: bool = False
    """Whether ``endpoint`` may begin with ``http://``: what is read, and a session token, pass in the clear then."""
    ca_file: Path | None = None
    """Certificates (PEM) that are trusted for ``endpoint`` in place of the usual ones."""
    anonymous: bool = False
    """Read public buckets, without credentials."""

    @field_validator("allow")
    @classmethod
    def _name_buckets(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if not ALLOWED.fullmatch(pattern):
                raise ValueError("allow takes bucket, or bucket/folder, with * for any text")
        return patterns

    @model_validator(mode="after")
    def _name_endpoint(self) -> "BucketSettings":
        if self.endpoint is None:
            return self
        parts = urlsplit(self.endpoint)
        if parts.scheme == "http" and not self.allow_http:
            raise ValueError("endpoint is http: set allow_http where its network is your own")
        plain = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        if not plain or "@" in parts.netloc or self.endpoint.endswith("/"):
            raise ValueError("endpoint is https://host, with a port or a path if need be, and no slash at its end")
        Reachable((parts.netloc,))
        return self

    def allows(self, bucket: str, folder: str) -> bool:
        """Whether a folder ("" for the bucket itself) may be read."""
        return any(_matches(each, f"{bucket}/{folder}" if "/" in each else bucket) for each in self.allow)


class S3Settings(BucketSettings):
    """Of Amazon S3 and of stores that speak its protocol. A secret stands here, or in a file of its own."""

    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    access_key_id: str | None = None
    access_key_id_file: Path | None = None
    secret_access_key: SecretStr | None = None
    secret_access_key_file: Path | None = None
    session_token: SecretStr | None = None
    session_token_file: Path | None = None

    def access_key(self) -> AccessKey | None:
        """The credentials; None where requests are anonymous. Raises UsageError."""
        key_id = _said("access_key_id", self.access_key_id, self.access_key_id_file)
        secret = _said("secret_access_key", self.secret_access_key, self.secret_access_key_file)
        token = _said("session_token", self.session_token, self.session_token_file)
        if self.anonymous:
            if key_id or secret or token:
                raise UsageError("the source s3 is anonymous and has credentials", hint="leave out one of the two")
            return None
        if key_id is None or secret is None:
            raise UsageError(
                "the source s3 has no credentials",
                hint="set access_key_id and secret_access_key, or anonymous for public buckets; nothing is taken from "
                "the environment",
            )
        return AccessKey(key_id, secret, token)


class GSSettings(BucketSettings):
    """Of Google Cloud Storage."""

    service_account_file: Path | None = None
    """The key file of a service account, in JSON."""

    def service_account(self) -> ServiceAccount | None:
        """The account; None where requests are anonymous. Raises UsageError."""
        if self.anonymous:
            if self.service_account_file is not None:
                raise UsageError("the source gs is anonymous and has credentials", hint="leave out one of the two")
            return None
        if self.service_account_file is None:
            raise UsageError(
                "the source gs has no credentials",
                hint="set service_account_file, or anonymous for public buckets; nothing is taken from the environment",
            )
        text = _read("service_account_file", self.service_account_file)
        try:
            return read_service_account(text)
        except ImportError:
            raise UsageError(
                "gs:// with a service account needs the package cryptography", hint="pip install 'spinal[buckets]'"
            ) from None
        except ValueError as error:
            raise UsageError(f"service_account_file {self.service_account_file.name}: {error}") from None


def _matches(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def _said(name: str, value: str | SecretStr | None, file: Path | None) -> str | None:
    if value is not None and file is not None:
        raise UsageError(f"{name} and {name}_file are both set", hint="leave out one of the two")
    found = _read(f"{name}_file", file) if file else value.get_secret_value() if isinstance(value, SecretStr) else value
    if found is not None and not (found.isascii() and found.isprintable() and found):
        raise UsageError(f"{name} is empty, or holds what no credential holds", hint="give it as the store showed it")
    return found


def _read(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_SECRET + 1)
        text = raw.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name} {path.name} cannot be read ({type(error).__name__})",
            hint="is it text, and readable for this process?",
        ) from None
    if len(raw) > MOST_SECRET:
        raise UsageError(f"{name} {path.name} is larger than a secret", hint="give a file with nothing but the secret")
    return text
