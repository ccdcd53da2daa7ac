"""What values of settings are held to, and how those are read that stand in files; the settings are ``settings.py``."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from service.registries import load_registries
from spinal.checkpoints.sources.reach import load_source_settings
from spinal.errors import UsageError

SECRETS = (
    "database_url", "database_direct_url", "db_password", "broker_url", "broker_password", "broker_transport_options",
    "key_pepper", "attestation_key", "attestation_key_options",
)  # fmt: skip
"""Settings that a file may hold in their place, named by a setting ``..._file``."""
NOTHING_IS_UNSET = frozenset(
    {*SECRETS, *(f"{name}_file" for name in SECRETS), "broker_tls_ca_file", "registries_file"}
    - {"database_url", "broker_url"}
)


class TenantLimits(BaseModel):
    """What one tenant may hold and ask; None where that is what all may."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    open_audits: int | None = Field(default=None, ge=0)
    requests_per_minute: int | None = Field(default=None, ge=1)
    prompt_sets: int | None = Field(default=None, ge=0)
    prompt_bytes: int | None = Field(default=None, ge=0)
    idempotency_keys: int | None = Field(default=None, ge=0)


@dataclass(frozen=True)
class Limits:
    """What a tenant may hold and ask."""

    open_audits: int
    requests_per_minute: int
    prompt_sets: int
    prompt_bytes: int
    idempotency_keys: int


BELOW = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){0,8}")
OF_THE_API = frozenset({"v1", "docs", "openapi.json", "livez", "readyz", "r", "ui"})
"""First parts of paths that are routes: below one of them nobody could tell a prefix from a route."""


def with_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the content of files in place of their names. Raises ValueError, without what stands there."""
    # Compose files and charts hand on what is not set as nothing.
    kept = {name: value for name, value in values.items() if name not in NOTHING_IS_UNSET or value != ""}
    for name in SECRETS:
        file = kept.get(f"{name}_file")
        if file is None:
            continue
        if kept.get(name):
            raise ValueError(f"both SPINAL_{name.upper()} and SPINAL_{name.upper()}_FILE are set")
        try:
            kept[name] = Path(file).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:
            why = type(error).__name__
            raise ValueError(f"SPINAL_{name.upper()}_FILE names a file that cannot be read ({why})") from None
        if not kept[name]:
            raise ValueError(f"SPINAL_{name.upper()}_FILE names an empty file")
    return kept


def with_sources(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the sources of models, read from a text or a file. Raises ValueError."""
    return _with_document(values, "model_sources", load_source_settings)


def with_registries(values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the registries, read from a text or a file. Raises ValueError."""
    return _with_document(values, "registries", load_registries)


def _with_document(values: dict[str, Any], name: str, load: Callable[[str], object]) -> dict[str, Any]:
    file, text = values.get(f"{name}_file"), values.get(name)
    if not file and not isinstance(text, str):
        return values
    if file and text:
        raise ValueError(f"both {name} and {name}_file are set")
    try:
        found = load(Path(file).read_text(encoding="utf-8") if file else str(text))
    except UsageError as error:
        # Without what stands there, which may be a secret.
        raise ValueError(error.detail) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_file cannot be read ({type(error).__name__})") from None
    return {**values, name: found}


def json_object(value: SecretStr) -> SecretStr:
    """``value``, where it is a JSON object. Raises ValueError."""
    # Said without what stands there: it may hold a secret.
    try:
        found = json.loads(value.get_secret_value() or "{}")
    except ValueError:
        raise ValueError("is no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("is no JSON object")
    return value


def public_address(value: str) -> str:
    """An address under which callers reach the API, without a slash at its end. Raises ValueError."""
    found = urlsplit(value)
    _ = found.port  # raises where it is none
    if found.scheme not in ("http", "https") or not found.hostname or "@" in found.netloc:
        raise ValueError("an address is http://host or https://host, with a path at most")
    if found.query or found.fragment:
        raise ValueError("an address has neither a query nor a fragment")
    return f"{found.scheme}://{found.netloc}{path_below(found.path)}"


def path_below(text: str) -> str:
    """A path below which a proxy serves the API, as ``/a/b``, or nothing. Raises ValueError."""
    path = text.rstrip("/")
    if not BELOW.fullmatch(path):
        raise ValueError("a path is /name or /name/name, of letters, digits and ._~- only")
    if path.split("/")[1:2] and path.split("/")[1] in OF_THE_API:
        raise ValueError(f"a path does not begin with one of the API's own: {', '.join(sorted(OF_THE_API))}")
    return path
