"""Files that hold prompts: text, JSONL, hh-rlhf pairs; gzip accepted."""

import gzip
import json
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
    """Parse file content; JSONL when the first non-blank line starts with ``{``, else one prompt a line."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise PromptSetEmpty(f"{name} is empty", hint="give at least one non-empty prompt")
    if not first.lstrip().startswith("{"):
        return make_prompt_set([(line.rstrip("\r"), None) for line in lines], name=name, origin=name)
    pairs = [
        pair
        for number, line in enumerate(lines, start=1)
        if line.strip() and (pair := _parse_record(line, f"{name}, line {number}")) is not None
    ]
    return make_prompt_set(pairs, name=name, origin=name)


def _parse_record(line: str, where: str) -> tuple[str, str | None] | None:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise PromptSetInvalid(f"{where}: not JSON ({error})", hint="one JSON object a line") from error
    if not isinstance(record, dict):
        raise PromptSetInvalid(f"{where}: expected a JSON object", hint="one JSON object a line")
    if isinstance(record.get("prompt"), str):
        continuation = record.get("continuation")
        if continuation is not None and not isinstance(continuation, str):
            raise PromptSetInvalid(f"{where}: 'continuation' must be text")
        return record["prompt"], continuation
    if isinstance(record.get("chosen"), str) and isinstance(record.get("rejected"), str):
        return split_pair(record["chosen"], record["rejected"])
    raise PromptSetInvalid(
        f"{where}: needs 'prompt', or 'chosen' and 'rejected', as text",
        hint='for example {"prompt": "How do I reset a password?"}',
    )


def read_text(path: Path) -> str:
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
