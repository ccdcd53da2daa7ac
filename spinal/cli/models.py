"""``spinal models``: names that a service has for model references."""

from typing import Annotated

import typer

from spinal.checkpoints.sources import reference_forms
from spinal.cli.output import say, say_json
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected, print_table

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def models() -> None:
    """Models of a service that have a name: register, list."""


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="What audits are to call it; a name is never moved.")],
    reference: Annotated[str, typer.Argument(help=f"Model reference: {reference_forms()}.")],
    description: Annotated[str | None, typer.Option(help="What it is, for whoever lists models.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a model reference a name."""
    with connected(server, api_key) as client:
        found = client.register_model(name, reference, description=description)
    if as_json:
        say_json(found)
    else:
        say(f"{found['name']} is {found['reference']}", to_stdout=True)


@app.command("list")
def show_all(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List all models that have a name."""
    with connected(server, api_key) as client:
        found = list(client.models())
    if as_json:
        say_json(found)
        return
    rows = [(one["name"], one["reference"], one.get("description") or "-") for one in found]
    print_table(("name", "reference", "description"), rows, whole=())
