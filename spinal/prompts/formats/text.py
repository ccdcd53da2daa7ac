"""Plain text, one prompt a line: what no other format knows."""

from spinal.errors import PromptSetInvalid
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.formats.table import names_a_record
from spinal.prompts.gathered import Gathered
from spinal.prompts.records import Entry


def _read(source: Source) -> Gathered:
    if "\0" in source.text:
        raise PromptSetInvalid(f"{source.name} holds NUL bytes: it is no text", hint="write one prompt a line")
    found = Gathered([Entry(line.rstrip("\r")) for line in source.lines])
    if names_a_record([source.first.strip('"').casefold()]):
        found.remarks.append(
            f"{source.name}: its first line, {source.first!r}, looks like the header of a table and was read as a "
            "prompt; a table has a name that ends in .csv"
        )
    return found


TEXT = FileFormat("text", lambda _source: True, _read)
