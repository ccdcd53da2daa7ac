"""Parquet, where pyarrow is installed."""

import io

from spinal.errors import PromptSetInvalid
from spinal.extras import install_hint
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.formats.table import names_a_record
from spinal.prompts.gathered import Gathered
from spinal.prompts.records import BESIDE, RECORDS, read_entry

MAGIC = b"PAR1"


def _knows(source: Source) -> bool:
    return source.raw.startswith(MAGIC) or source.suffix == ".parquet"


def _read(source: Source) -> Gathered:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise PromptSetInvalid(
            f"{source.name} is Parquet, and pyarrow, which reads it, is not installed", hint=install_hint("parquet")
        ) from error
    wanted = {member for members in RECORDS for member in members} | set(BESIDE)
    try:
        file = parquet.ParquetFile(io.BytesIO(source.raw))
        names = file.schema_arrow.names
        columns = [name for name in names if name in wanted]
        rows = file.read(columns=columns).to_pylist() if names_a_record(columns) else None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise PromptSetInvalid(f"{source.name} cannot be read as Parquet ({error})") from error
    if rows is None:
        raise PromptSetInvalid(
            f"{source.name} has no column 'prompt', nor 'chosen' and 'rejected'; it has "
            f"{', '.join(repr(name) for name in names[:5])}",
            hint="rename the column of the prompts to 'prompt'",
        )
    found = Gathered()
    for number, row in enumerate(rows, start=1):
        found.add(read_entry(row, f"{source.name}, row {number}"))
    return found


PARQUET = FileFormat("parquet", _knows, _read)
