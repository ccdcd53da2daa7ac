"""``spinal models``: names that a service has for model references, with their versions and aliases."""

from dataclasses import dataclass
from typing import Annotated

import typer

from spinal.checkpoints.sources import reference_forms
from spinal.cli.output import say, say_json
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected, print_table
from spinal.errors import RegisteredModelNotFound, UsageError

app = typer.Typer(no_args_is_help=True, add_completion=False)
FORMS = "give NAME or ORG/NAME, then nothing, :VERSION or @ALIAS"


@app.callback()
def models() -> None:
    """Models of a service that have a name, versions and aliases."""


@dataclass(frozen=True)
class Named:
    """A name as it was typed, apart."""

    name: str
    version: str | None
    alias: str | None


def read_named(typed: str) -> Named:
    """Raises UsageError where a part is empty, or both a version and an alias are given."""
    for mark in ":@":
        name, found, rest = typed.partition(mark)
        if found:
            if not name or not rest or set(name + rest) & set(":@"):
                raise UsageError(f"{typed!r} names no registered model", hint=FORMS)
            return Named(name, rest if mark == ":" else None, rest if mark == "@" else None)
    if not typed:
        raise UsageError("no name was given", hint=FORMS)
    return Named(typed, None, None)


@app.command()
def register(
    name: Annotated[
        str, typer.Argument(metavar="[ORG/]NAME[:VERSION]", help="What audits are to call it; a version never moves.")
    ],
    reference: Annotated[str, typer.Argument(help=f"Model reference: {reference_forms()}.")],
    description: Annotated[str | None, typer.Option(help="What it is, for whoever lists models.")] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Give a model reference a name; with a version, a further version of a name that is there."""
    named = read_named(name)
    if named.alias is not None:
        raise UsageError(f"{name!r} is an alias of a version", hint="`spinal models alias NAME@ALIAS VERSION` moves it")
    with connected(server, api_key) as client:
        if named.version is None:
            found = client.register_model(named.name, reference, description=description)
        else:
            try:
                found = client.register_version(named.name, named.version, reference)
                if description is not None:
                    client.update_model(named.name, description=description)
            except RegisteredModelNotFound:
                found = client.register_model(named.name, reference, version=named.version, description=description)
    if as_json:
        say_json(found)
    else:
        version = f":{found['version']}" if "version" in found else ""
        say(f"{found['name']}{version} is {found['reference']}", to_stdout=True)


@app.command("list")
def show_all(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List all models that have a name, each as its newest version is."""
    with connected(server, api_key) as client:
        found = list(client.models())
    if as_json:
        say_json(found)
        return
    rows = [
        (
            one["name"],
            one.get("version", "-"),
            one["reference"],
            _pointing(one.get("aliases", {})),
            one.get("description") or "-",
        )
        for one in found
    ]
    print_table(("name", "version", "reference", "aliases", "description"), rows, whole=())


def _pointing(aliases: dict[str, str]) -> str:
    return ", ".join(f"{alias} = {version}" for alias, version in aliases.items()) or "-"


Name = Annotated[str, typer.Argument(metavar="[ORG/]NAME[:VERSION|@ALIAS]", help="As audits name it.")]


@app.command()
def show(name: Name, server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show what a name means now: its newest version, the one that is named, or the one of an alias."""
    named = read_named(name)
    with connected(server, api_key) as client:
        found = client.model(named.name)
        version = named.version
        if named.alias is not None:
            version = found["aliases"].get(named.alias)
            if version is None:
                raise UsageError(
                    f"{named.name} has no alias {named.alias}", hint=f"`spinal models show {named.name}` shows them"
                )
        if version is not None:
            found = client.version(named.name, version)
    if as_json:
        say_json(found)
        return
    say(f"{found['name']}:{found['version']} is {found['reference']}", to_stdout=True)
    aliases = found["aliases"] if isinstance(found["aliases"], list) else [_pointing(found["aliases"])]
    labels = ", ".join(f"{key}={value}" for key, value in found["labels"].items())
    for what, told in (
        ("aliases", ", ".join(aliases)),
        ("description", found.get("description") or ""),
        ("labels", labels),
        ("created", found["created_at"]),
    ):
        say(f"{what}: {told or '-'}", to_stdout=True)


@app.command()
def versions(
    name: Annotated[str, typer.Argument(metavar="[ORG/]NAME", help="A registered model.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of a model, newest first."""
    with connected(server, api_key) as client:
        found = list(client.versions(name))
    if as_json:
        say_json(found)
        return
    rows = [(one["version"], one["reference"], ", ".join(one["aliases"]) or "-", one["created_at"]) for one in found]
    print_table(("version", "reference", "aliases", "created"), rows, whole=("version",))


@app.command()
def alias(
    name: Annotated[str, typer.Argument(metavar="[ORG/]NAME@ALIAS", help="The alias to make or to move.")],
    version: Annotated[str, typer.Argument(help="The version that it is to mean.")],
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias mean a version from now on. Audits that were submitted keep what it meant."""
    named = read_named(name)
    if named.alias is None:
        raise UsageError(f"{name!r} is no alias", hint="give it as NAME@ALIAS")
    with connected(server, api_key) as client:
        found = client.move_alias(named.name, named.alias, version)
    if as_json:
        say_json(found)
    else:
        say(f"{found['name']}@{found['alias']} is version {found['version']}, {found['reference']}", to_stdout=True)


@app.command()
def remove(name: Name, server: Server = DEFAULT_SERVER, api_key: ApiKey = None) -> None:
    """Take back an alias, a version, or a whole name with all its versions. Audits keep what they were about."""
    named = read_named(name)
    with connected(server, api_key) as client:
        if named.alias is not None:
            client.delete_alias(named.name, named.alias)
        elif named.version is not None:
            client.delete_version(named.name, named.version)
        else:
            client.delete_model(named.name)
    say(f"{name} is gone", to_stdout=True)
