"""What commands that ask a service share: where it is, who asks, and how what it keeps is listed."""

import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spinal.cli.output import on_terminal, say
from spinal.text import visible

if TYPE_CHECKING:
    from spinal.client import Client

DEFAULT_SERVER = "http://127.0.0.1:8000"
WIDE = 200
"""Columns at least of a table that is not shown on a terminal."""
BETWEEN = 2
"""Columns between two cells."""
Server = Annotated[str, typer.Option(envvar="SPINAL_SERVER", help="Address of the service.")]
ApiKey = Annotated[str | None, typer.Option(envvar="SPINAL_API_KEY", help="API key.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout; errors as problem objects on stderr.")]


@contextmanager
def connected(server: str, api_key: str | None) -> "Iterator[Client]":
    """A client of the service, which says on stderr when the service is away and waited for."""
    from spinal.client import Client

    def away(cause: str) -> None:
        say(f"the service does not answer ({cause}); it is asked again")

    with Client(server, api_key, on_away=away) as client:
        yield client


def at(server: str) -> str:
    """What a command to paste says of the server, where that is not the one that commands ask by themselves."""
    return "" if server == DEFAULT_SERVER else f" --server {shlex.quote(server)}"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, whole: Collection[str]) -> None:
    """Write a table to stdout. On a narrow terminal cells take several lines, but for those of the columns ``whole``;
    elsewhere each row is a line. What they hold comes from elsewhere, and is shown as it is."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        shown.add_column(name, no_wrap=name in whole, overflow="fold")
    cells = [[Text(visible(cell)) for cell in row] for row in rows]
    for row in cells:
        shown.add_row(*row)
    widest = [max(map(cell_len, (name, *(row[place].plain for row in cells)))) for place, name in enumerate(columns)]
    # One line a row for whoever searches the lines, however long a description is.
    wide = max(WIDE, sum(widest) + (BETWEEN + 1) * len(columns))
    Console(width=None if on_terminal() else wide, emoji=False, highlight=False).print(shown)
