"""``spinal prompts``: prompt sets that a service keeps, by name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spinal.cli.output import say, say_json
from spinal.cli.server import DEFAULT_SERVER, ApiKey, AsJson, Server, connected, print_table
from spinal.errors import PromptSetInvalid, UsageError

if TYPE_CHECKING:
    from spinal.client import Client
    from spinal.prompts.sets import PromptSet

MOST_LISTED = 200
SHORT = 100
"""Characters that are shown of a prompt."""
app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.callback()
def prompts() -> None:
    """Prompt sets of a service: what audits measure on, by name."""


@app.command()
def push(
    file: Annotated[Path, typer.Argument(help="Any file that compare --prompts takes.")],
    name: Annotated[
        str | None, typer.Option(help="What the set is called.", show_default="the name of the file")
    ] = None,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Store a file of prompts under a name, for spinal audit --prompt-set NAME; twice, it is the same set."""
    from spinal.prompts.stored import check_name, name_of_file

    made = read_file(file)
    called = name or name_of_file(file.name)
    check_name(called, made)
    with connected(server, api_key) as client:
        stored = client.push_prompt_set(made, name=called)
    stored["remarks"] = list(made.remarks)
    if as_json:
        say_json(stored)
        return
    for remark in made.remarks:
        say(remark)
    say(f"{stored['name'] or stored['digest']}: {stored['count']} prompts, digest {stored['digest']}", to_stdout=True)


def read_file(file: Path) -> "PromptSet":
    """The prompts in a file, checked as far as they can be here. Raises PromptFileNotFound, PromptSetInvalid,
    PromptSetEmpty."""
    from spinal.prompts.load import load_file
    from spinal.prompts.stored import check_storable

    made = load_file(file)
    check_storable(made)
    return made


@dataclass(frozen=True)
class Pushed:
    """What an audit measures on: a set that the service has, or one to be stored there first."""

    named: str | None
    made: "PromptSet | None" = None

    def named_at(self, client: "Client") -> str | None:
        """What the service finds it by: a set that is stored now, by its digest, since its name may move on."""
        if self.made is None:
            return self.named
        stored = client.push_prompt_set(self.made, name=self.named)
        say(f"stored {stored['count']} prompts as {stored['name'] or stored['digest']}")
        digest: str = stored["digest"]
        return digest


def read_pushed(prompts: str | None, prompt_set: str | None) -> Pushed:
    """What ``--prompts`` or ``--prompt-set`` means, before any request; raises UsageError where both are given, and
    what :func:`read_file` raises."""
    from spinal.prompts.builtin import BUILTIN_SETS
    from spinal.prompts.stored import check_name, name_of_file

    if prompts is not None and prompt_set is not None:
        raise UsageError("--prompts and --prompt-set are both given", hint="give a file, or the name of a stored set")
    if prompts is None or prompts in BUILTIN_SETS:
        return Pushed(prompts or prompt_set)
    file = Path(prompts)
    made = read_file(file)
    try:
        check_name(called := name_of_file(file.name), made)
    except PromptSetInvalid:
        # The file is called like a built-in set, say: it needs no name here, and is found by its digest.
        called = None
    return Pushed(called, made)


@app.command("list")
def show_all(server: Server = DEFAULT_SERVER, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """List the built-in prompt sets, then those that were stored, newest first."""
    with connected(server, api_key) as client:
        found = client.prompt_sets(limit=MOST_LISTED)
    if as_json:
        say_json(found)
        return
    rows = [
        (one["name"] or "-", str(one["count"]), "built in" if one["builtin"] else "stored", one["digest"])
        for one in found
    ]
    print_table(("name", "prompts", "", "digest"), rows, whole=("prompts", ""))
    if sum(not one["builtin"] for one in found) >= MOST_LISTED:
        say(f"only the {MOST_LISTED} newest are listed; `spinal prompts show NAME` finds any")


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME|DIGEST", help="What the set is called, or its digest.")],
    first: Annotated[int, typer.Option(min=0, max=10_000, help="How many of its prompts are shown.")] = 5,
    server: Server = DEFAULT_SERVER,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Show a prompt set: its digest, its categories, and the first of its prompts."""
    with connected(server, api_key) as client:
        found = client.prompt_set(name, prompts=first)
    if as_json:
        say_json(found)
        return
    kept = "built in" if found["builtin"] else "stored"
    say(f"{found['name'] or '-'}: {found['count']} prompts, {kept}, digest {found['digest']}", to_stdout=True)
    for category, count in found["categories"].items():
        say(f"  {count} of {category}", to_stdout=True)
    for one in found["prompts"]:
        say(f"  - {_shortened(one)}", to_stdout=True)


def _shortened(record: dict[str, Any]) -> str:
    prompt = record["prompt"]
    text = prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
    line = " ".join(text.split())
    return line if len(line) <= SHORT else line[: SHORT - 1] + "…"
