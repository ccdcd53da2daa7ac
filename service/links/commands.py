"""``spinal links``: links to reports, from the shell of an operator."""

import json
import sys
from typing import Annotated

import typer

from service.links.verbs import revoke_links
from service.operations.surroundings import AsJson, opened_ledger
from spinal.text import visible, visible_json

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def links() -> None:
    """Links that open one report without a key. They are signed, not stored: all of a tenant end together."""


@app.command()
def revoke(tenant: Annotated[str, typer.Option(help="Whose links end.")], as_json: AsJson = False) -> None:
    """End every link that was made so far to reports of a tenant. Links that are made afterwards work."""
    with opened_ledger() as ledger:
        at = revoke_links(ledger, tenant).isoformat()
    if as_json:
        sys.stdout.write(visible_json(json.dumps({"tenant": tenant, "revoked_at": at})) + "\n")
    else:
        sys.stderr.write(visible(f"links of {tenant} that were made before {at} open nothing") + "\n")
