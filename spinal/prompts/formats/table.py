"""Tables with a header: comma, semicolon or tab between the cells."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from spinal.errors import PromptSetInvalid
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.gathered import Gathered
from spinal.prompts.records import RECORDS, read_entry

SUFFIXES = (".csv", ".tsv", ".tab")
DELIMITERS = (",", "\t", ";", "|")
COLUMN = re.compile(r"[a-z_][\w-]*$")
LOOKED_AT = 5
"""Rows that must have as many cells as the header where the name does not say that it is a table."""
Row = tuple[int, list[str]]
"""Number of the line it ends on, and its cells."""


def names_a_record(columns: list[str]) -> bool:
    """Whether a record can be read from columns of these names."""
    return any(all(member in columns for member in members) for members in RECORDS)


def _knows(source: Source) -> bool:
    if source.suffix in SUFFIXES:
        return not source.first.startswith(("{", "["))
    delimiter = _delimiter(source)
    if delimiter is None:
        return False
    try:
        header, *rows = [cells for _, cells in islice(_rows(source, delimiter), LOOKED_AT + 1)]
    except PromptSetInvalid:
        return False
    plain = all(COLUMN.match(cell.casefold()) for cell in header)
    return plain and bool(rows) and all(len(cells) == len(header) for cells in rows)


def _delimiter(source: Source) -> str | None:
    """The delimiter under which the header names what a record needs, and something more."""
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([source.first], delimiter=delimiter), [])
        except csv.Error:
            continue
        if len(cells) > 1 and names_a_record(_columns(cells)):
            return delimiter
    return None


def _columns(header: list[str]) -> list[str]:
    return [cell.strip().casefold() for cell in header]


def _rows(source: Source, delimiter: str) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(source.text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise PromptSetInvalid(
            f"{source.where(reader.line_num)}: not a table ({error})",
            hint="cells with quotes, delimiters or line breaks stand in double quotes; or write one JSON object a line",
        ) from error


def _read(source: Source) -> Gathered:
    delimiter = _delimiter(source) or ("\t" if source.suffix != ".csv" else ",")
    rows = _rows(source, delimiter)
    columns = _columns(next(rows, (0, []))[1])
    if not names_a_record(columns):
        raise PromptSetInvalid(
            f"{source.name}: the first line names no column 'prompt', nor 'chosen' and 'rejected'; it has "
            f"{', '.join(repr(column[:40]) for column in columns[:5])}",
            hint="give the table a header, for example: prompt,continuation",
        )
    if twice := [column for column, count in Counter(filter(None, columns)).items() if count > 1]:
        raise PromptSetInvalid(
            f"{source.name}: the first line names column {twice[0][:40]!r} more than once", hint="keep one of them"
        )
    found = Gathered()
    for number, cells in rows:
        where = source.where(number)
        if len(cells) != len(columns):
            raise PromptSetInvalid(f"{where}: {len(cells)} cells under a header of {len(columns)}")
        record = dict(zip(columns, cells, strict=True))
        found.add(read_entry({name: cell for name, cell in record.items() if name}, where))
    return found


TABLE = FileFormat("table", _knows, _read)
