"""Files that hold prompts: text, JSONL, hh-rlhf pairs; gzip accepted."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spinal.errors import PromptSetEmpty, PromptSetInvalid
from spinal.prompts.sets import PromptSet, make_prompt_set

MAX_FILE_BYTES = 256 * 1024 * 1024
ASSISTANT_TURN = "\n\nAssistant:"


def split_pair(chosen: str, rejected: str) -> tuple[str, str] | None:
    """Prompt and chosen answer of an hh-rlhf pair, or None where the two sides share no prompt."""
    cut = chosen.rfind(ASSISTANT_TURN)
    if cut < 0:
        return None
    cut += len(ASSISTANT_TURN)
    prompt, answer = chosen[:cut], chosen[cut:]
    if rejected[:cut] != prompt or ASSISTANT_TURN in rejected[cut:]:
        return None
    other = rejected[cut:]
    if not answer.strip() or not other.strip() or answer.strip() == other.strip():
        return None
    return prompt, answer


def parse_prompts(text: str, *, name: str) -> PromptSet:
    """The prompts in a file, read by the first of ``FILE_FORMATS`` that knows its first line which is not blank."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise PromptSetEmpty(f"{name} is empty", hint="give at least one non-empty prompt")
    chosen = next(known for known in FILE_FORMATS.values() if known.knows(first))
    return make_prompt_set(chosen.read(lines, name), name=name, origin=name)


Prompt = tuple[str, str | None]
"""A prompt and its continuation, where it has one."""


@dataclass(frozen=True)
class FileFormat:
    """One way to write prompts into a file."""

    name: str
    knows: Callable[[str], bool]
    """Whether the first line that is not blank is of this format."""
    read: Callable[[list[str], str], list[Prompt]]
    """Lines and the name to complain under -> prompts; raises PromptSetInvalid."""


def _read_records(lines: list[str], name: str) -> list[Prompt]:
    return [
        found
        for number, line in enumerate(lines, start=1)
        if line.strip() and (found := _record(line, f"{name}, line {number}")) is not None
    ]


def _record(line: str, where: str) -> Prompt | None:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise PromptSetInvalid(f"{where}: not JSON ({error})", hint="one JSON object a line") from error
    if not isinstance(record, dict):
        raise PromptSetInvalid(f"{where}: expected a JSON object", hint="one JSON object a line")
    for members, read in RECORDS.items():
        if all(isinstance(record.get(member), str) for member in members):
            return read(record, where)
    raise PromptSetInvalid(
        f"{where}: needs 'prompt', or 'chosen' and 'rejected', as text",
        hint='for example {"prompt": "How do I reset a password?"}',
    )


def _prompt(record: dict[str, Any], where: str) -> Prompt:
    continuation = record.get("continuation")
    if continuation is not None and not isinstance(continuation, str):
        raise PromptSetInvalid(f"{where}: 'continuation' must be text")
    return record["prompt"], continuation


def _preference_pair(record: dict[str, Any], _where: str) -> Prompt | None:
    return split_pair(record["chosen"], record["rejected"])


RECORDS: dict[tuple[str, ...], Callable[[dict[str, Any], str], Prompt | None]] = {
    ("prompt",): _prompt,
    ("chosen", "rejected"): _preference_pair,
}
"""Members that a record of JSONL has as text -> what it means; None leaves the record out."""


def _read_lines(lines: list[str], _name: str) -> list[Prompt]:
    return [(line.rstrip("\r"), None) for line in lines]


FILE_FORMATS: dict[str, FileFormat] = {
    made.name: made
    for made in (
        FileFormat("jsonl", lambda first: first.lstrip().startswith("{"), _read_records),
        FileFormat("text", lambda _first: True, _read_lines),
    )
}
"""By name, in the order in which they are tried; plain text, one prompt a line, takes what no other knows."""


def read_text(path: Path) -> str:
    """Content of a file of at most ``MAX_FILE_BYTES``, unpacked where it is gzip; raises PromptSetInvalid."""
    try:
        raw = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None
        if raw is not None and raw[:2] == b"\x1f\x8b":
            with gzip.open(path) as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError) as error:
        raise PromptSetInvalid(f"{path.name} cannot be read: {error}") from error
    if raw is None or len(raw) > MAX_FILE_BYTES:
        raise PromptSetInvalid(f"{path.name} is larger than {MAX_FILE_BYTES} bytes", hint="split the file")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptSetInvalid(
            f"{path.name} is not UTF-8 (byte {error.start})", hint="convert the file to UTF-8"
        ) from error
