"""A prompt set from what a caller names: a built-in set, or a file."""

import gzip
import zlib
from pathlib import Path

from spinal.errors import PromptFileNotFound, PromptSetInvalid
from spinal.prompts.builtin import BUILTIN_SETS, builtin_prompts
from spinal.prompts.formats import Source, parse_prompts
from spinal.prompts.sets import PromptSet

MAX_FILE_BYTES = 256 * 1024 * 1024


def load_prompts(source: str) -> PromptSet:
    """A built-in set by name, or a file: text (one prompt a line), JSON lines or a JSON list of prompts, records
    (``prompt`` and optionally ``continuation``), chats (``messages``) or pairs (``chosen``/``rejected``, with a
    ``prompt`` beside them or as its own beginning), a table with a header, Parquet; gzip accepted. Any record may have
    a ``category`` and, in ``refusal``, openings of an answer that would be a refusal.

    Raises PromptFileNotFound, PromptSetInvalid, PromptSetEmpty.
    """
    if source in BUILTIN_SETS:
        return builtin_prompts(source)
    return load_file(Path(source))


def load_file(path: Path) -> PromptSet:
    """As :func:`load_prompts`, of a file whatever it is called."""
    if not _is_file(path):
        raise PromptFileNotFound(
            f"no prompt file at {path}", hint=f"give a file, or a built-in set: {', '.join(BUILTIN_SETS)}"
        )
    return parse_prompts(Source(path.name, read_bytes(path)))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        # No name of a file at all: too long, or with NUL in it.
        return False


def read_bytes(path: Path) -> bytes:
    """Content of a file of at most ``MAX_FILE_BYTES``, unpacked where it is gzip; raises PromptSetInvalid."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        if raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                raw = packed.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise PromptSetInvalid(f"{path.name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise PromptSetInvalid(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", hint="split the file")
    return raw
