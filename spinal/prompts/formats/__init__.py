"""Files that hold prompts. A format is one file here and one line in ``FILE_FORMATS``."""

from spinal.errors import PromptSetEmpty
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.formats.document import DOCUMENT
from spinal.prompts.formats.jsonl import JSONL
from spinal.prompts.formats.parquet import PARQUET
from spinal.prompts.formats.refused import REFUSED
from spinal.prompts.formats.table import TABLE
from spinal.prompts.formats.text import TEXT
from spinal.prompts.sets import PromptSet

FILE_FORMATS: dict[str, FileFormat] = {made.name: made for made in (PARQUET, REFUSED, DOCUMENT, JSONL, TABLE, TEXT)}
"""By name, in the order in which they are tried; plain text, one prompt a line, takes what no other knows."""


def parse_prompts(source: Source) -> PromptSet:
    """The prompts in a file, read by the first of ``FILE_FORMATS`` that knows it; raises PromptSetInvalid,
    PromptSetEmpty."""
    if not source.raw.strip():
        raise PromptSetEmpty(f"{source.name} is empty", hint="give at least one non-empty prompt")
    chosen = next(known for known in FILE_FORMATS.values() if known.knows(source))
    return chosen.read(source).prompt_set(name=source.name, origin=source.name)


__all__ = ["FILE_FORMATS", "FileFormat", "Source", "parse_prompts"]
