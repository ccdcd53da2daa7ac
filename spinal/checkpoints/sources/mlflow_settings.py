"""What an operator says of an MLflow registry."""

import base64
import re
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from spinal.errors import UsageError
from spinal.errors.faults import shown


class RegistrySettings(BaseModel):
    """A tracking server, and what of it may be read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    """Address of the tracking server, with the path below which it answers, if any."""
    allow: tuple[str, ...] = Field(min_length=1)
    """Names of registered models that may be read; ``*`` stands for anything."""
    token: SecretStr | None = None
    token_file: Path | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    private_hosts: tuple[str, ...] = ()
    """The server, as host or host:port, or networks that it lies in, where its address is not a public one."""
    artifacts: str | None = Field(default=None, pattern=r"(s3|gs)://[^\s?#]+")
    """The bucket in which the server keeps what it serves, as its ``--artifacts-destination`` names it. Files are read
    there then: the server would send the first byte of a file only when it has fetched all of it for itself."""

    def allows(self, name: str) -> bool:
        """Whether the registered model of this name may be read."""
        return any(_matches(name, pattern) for pattern in self.allow)

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018  raises ValueError for what is no port
        except ValueError as error:
            raise ValueError("url is no address") from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
            raise ValueError("url is the address of a tracking server: https://HOST[:PORT][/PATH]")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("url holds no credentials, query or fragment: give token, or username and password")
        return url.rstrip("/")

    @field_validator("allow")
    @classmethod
    def _patterns(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        if not all(allow):
            raise ValueError("allow holds names of registered models, or patterns with *")
        return allow

    @model_validator(mode="after")
    def _one_way_in(self) -> "RegistrySettings":
        tokens = [each for each in (self.token, self.token_file) if each is not None]
        passwords = [each for each in (self.password, self.password_file) if each is not None]
        if len(tokens) + len(passwords) > 1:
            raise ValueError("give one of token, token_file, password, password_file")
        if (self.username is None) != (not passwords):
            raise ValueError("username and password (or password_file) belong together")
        return self


def credentials_of(settings: RegistrySettings) -> dict[str, str]:
    """The headers that let us in. Raises UsageError where a file cannot be read or holds no secret."""
    token = _secret(settings.token, settings.token_file)
    if token is not None:
        return {"Authorization": f"Bearer {token}"}
    password = _secret(settings.password, settings.password_file)
    if password is None:
        return {}
    pair = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _secret(given: SecretStr | None, file: Path | None) -> str | None:
    secret = None if given is None else given.get_secret_value()
    if file is not None:
        try:
            secret = file.read_text().strip()
        except (OSError, UnicodeError) as error:
            raise UsageError(
                f"source mlflow: the file {shown(file.name)} with its secret cannot be read",
                hint="is it there, and readable for this process?",
            ) from error
    if secret is not None and not (secret and secret.isprintable()):
        raise UsageError("source mlflow: its secret is empty, or no single line", hint="check token or password")
    return secret


def _matches(name: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None
