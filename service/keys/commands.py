"""``spinal keys``: API keys from the shell."""

import json
import sys
from typing import Annotated

import typer

from service.keys.store import SCOPES, create_key, revoke_key
from service.operations.surroundings import AsJson, opened_ledger, read_settings
from spinal.errors import UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def keys() -> None:
    """API keys: only an HMAC of a key is stored, so it is shown once."""


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose audits the key opens.")],
    scope: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(SCOPES)}.")] = "read,write",
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once."""
    scopes = tuple(scope.split(","))
    if unknown := [name for name in scopes if name not in SCOPES]:
        raise UsageError(f"unknown scope {', '.join(unknown)}", hint=f"known: {', '.join(SCOPES)}")
    pepper = _pepper()
    with opened_ledger() as ledger, ledger.begin() as session:
        key = create_key(session, tenant=tenant, scopes=scopes, pepper=pepper)
    sys.stdout.write((json.dumps({"key": key}) if as_json else key) + "\n")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The part of the key between the underscores.")],
    as_json: AsJson = False,
) -> None:
    """End a key."""
    with opened_ledger() as ledger, ledger.begin() as session:
        ended = revoke_key(session, key_id)
    if not ended:
        raise UsageError(f"no live key {key_id}", hint="the id stands between the underscores of spk_<id>_<secret>")
    if as_json:
        sys.stdout.write(json.dumps({"revoked": key_id}) + "\n")


def _pepper() -> str:
    pepper: str = read_settings().key_pepper.get_secret_value()
    if not pepper:
        raise UsageError("SPINAL_KEY_PEPPER is not set", hint="set it to the value that the API runs with")
    return pepper
