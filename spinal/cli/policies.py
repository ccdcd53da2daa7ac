"""``spinal policies``: policies that a service keeps, by name and version."""

from pathlib import Path
from typing import Annotated

import typer

from spinal.cli.output import say, say_json
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected, print_table
from spinal.errors import UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def policies() -> None:
    """Policies of a service: the rules that make the verdict of an audit."""


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="A policy in YAML or JSON.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Store a policy under the name and version that it has, for spinal audit --policy NAME/VERSION.

    Twice, it is the same policy; other rules under a name and version that are taken are refused.
    """
    from spinal.policy.shipped import read_policy

    if not file.is_file():
        raise UsageError(f"no policy file at {file}", hint="give a file in YAML or JSON")
    # Read here first: a mistake in it is named with its line or member before anything is sent.
    made = read_policy(file)
    with connected(server, api_key) as client:
        stored = client.push_policy(made.spelled_out())
    if as_json:
        say_json(stored)
    else:
        say(f"{stored['name']}: {len(made.rules)} rules, digest {stored['digest']}", to_stdout=True)


@app.command("list")
def show_all(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the policies that ship with the service, then those that were stored, by name."""
    with connected(server, api_key) as client:
        found = list(client.policies())
    if as_json:
        say_json(found)
        return
    rows = [
        (
            one["name"],
            str(one["rules"]),
            "ships" if one["builtin"] else "stored",
            one["digest"][:12],
            one["description"],
        )
        for one in found
    ]
    print_table(("name", "rules", "", "digest", "description"), rows, whole=("name", "rules", "", "digest"))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME/VERSION|DIGEST", help="For example spinal-default/2.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Write a policy as YAML, which spinal policies push and --policy take."""
    with connected(server, api_key) as client:
        found = client.policy(name)
    if as_json:
        say_json(found)
        return
    import yaml

    # In characters that no terminal obeys, and that are read again as what they stand for.
    for line in yaml.safe_dump(found["document"], sort_keys=False, width=120).splitlines():
        say(line, to_stdout=True)
