"""``spinal keys``: API keys from the shell."""

import json
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from sqlalchemy import Row

from service.keys.lifetime import end_of, read_duration, read_expiry
from service.keys.store import (
    SCOPES,
    UNKNOWN_HINT,
    create_key,
    database_time,
    list_keys,
    revoke_key,
    rotate_key,
)
from service.operations.surroundings import AsJson, opened_ledger
from service.settings import read_settings
from spinal.cli.server import print_table
from spinal.errors import UsageError
from spinal.text import rfc3339, visible, visible_json

LONGEST_LINE = 200
KeyId = Annotated[str, typer.Argument(metavar="ID", help="The part of the key between the underscores.")]
Expires = Annotated[
    str | None,
    typer.Option(metavar="90d|DATE", help="When the key ends: a duration, a date (UTC), or a time with its offset."),
]

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def keys() -> None:
    """API keys: only an HMAC of a key is stored, so it is shown once."""


@app.command("list")
def show_keys(
    tenant: Annotated[str | None, typer.Option(help="Only keys of this tenant.")] = None, as_json: AsJson = False
) -> None:
    """List all keys, newest first: whose they are, what they may do, when they were used and when they end.

    A key that is not bound was made by an earlier release, and is bound with its next use.
    """
    with opened_ledger() as ledger, ledger.read() as session:
        found = list_keys(session, tenant)
    if as_json:
        _say_json([_members(row) for row in found])
        return
    columns = ("id", "state", "bound", "tenant", "scopes", "created", "last used", "ends", "description")
    print_table(columns, [_cells(row) for row in found], whole=("id", "state"))


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose audits the key opens.")],
    scope: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(SCOPES)}.")] = "read,write",
    expires: Expires = None,
    description: Annotated[str | None, typer.Option(help="What the key is for.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once."""
    scopes = tuple(scope.split(","))
    if unknown := [name for name in scopes if name not in SCOPES]:
        raise UsageError(f"unknown scope {', '.join(unknown)}", hint=f"known: {', '.join(SCOPES)}")
    _check_line("--tenant", tenant, least=1)
    _check_line("--description", description or "")
    pepper = _pepper()
    expiry = None if expires is None else read_expiry(expires)
    with opened_ledger() as ledger, ledger.begin() as session:
        ends = None if expiry is None else end_of(expiry, database_time(session))
        key = create_key(session, tenant=tenant, scopes=scopes, pepper=pepper, expires_at=ends, description=description)
    _say_key(key, ends, as_json)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(metavar="24h", help="How long the old key goes on working.")] = "24h",
    expires: Expires = None,
    as_json: AsJson = False,
) -> None:
    """Make a key with the same tenant and scopes and print it, once; the old one ends after the overlap.

    The new key lives as long as the old one was given, unless --expires says otherwise.
    """
    pepper = _pepper()
    both_work = read_duration(overlap, "--overlap")
    expiry = None if expires is None else read_expiry(expires)
    with opened_ledger() as ledger, ledger.begin() as session:
        ends = None if expiry is None else end_of(expiry, database_time(session))
        made = rotate_key(session, key_id, overlap=both_work, pepper=pepper, expires_at=ends)
    _say_key(made.key, made.expires_at, as_json, old={"id": key_id, "expires_at": _written(made.old_expires_at)})
    if not as_json:
        sys.stderr.write(visible(f"key {key_id} ends at {_written(made.old_expires_at)}") + "\n")


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """End a key."""
    with opened_ledger() as ledger, ledger.begin() as session:
        ended = revoke_key(session, key_id)
    if not ended:
        raise UsageError(f"no live key {key_id}", hint=UNKNOWN_HINT)
    if as_json:
        _say_json({"revoked": key_id})


def _say_key(key: str, ends: datetime | None, as_json: bool, **further: Any) -> None:
    """The key alone on stdout, to be kept by whatever reads it; what is no secret beside it on stderr."""
    if as_json:
        _say_json({"key": key, "id": key.split("_")[1], "expires_at": _written(ends)} | further)
        return
    sys.stdout.write(key + "\n")
    if ends is not None:
        sys.stderr.write(f"it ends at {_written(ends)}\n")


def _members(row: Row[Any]) -> dict[str, Any]:
    return {name: _written(value) if isinstance(value, datetime) else value for name, value in row._asdict().items()}


def _cells(row: Row[Any]) -> tuple[str, ...]:
    told = row.description or ""
    if row.replaced_by is not None:
        told = f"{told} (replaced by {row.replaced_by})".strip()
    return (
        row.id, row.state, "yes" if row.bound else "no", row.tenant, ",".join(row.scopes), _short(row.created_at),
        _short(row.last_used_at) or "never", _short(row.revoked_at or row.expires_at) or "never", told,
    )  # fmt: skip


def _written(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment, "seconds")


def _short(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def _say_json(value: Any) -> None:
    sys.stdout.write(visible_json(json.dumps(value)) + "\n")


def _check_line(option: str, given: str, *, least: int = 0) -> None:
    if not (given.isprintable() and least <= len(given) <= LONGEST_LINE):
        raise UsageError(
            f"{option} is one line of {least} to {LONGEST_LINE} printable characters", hint="give another one"
        )


def _pepper() -> str:
    pepper: str = read_settings().key_pepper.get_secret_value()
    if not pepper:
        raise UsageError("SPINAL_KEY_PEPPER is not set", hint="set it to the value that the API runs with")
    return pepper
