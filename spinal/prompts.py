"""Prompt sets: what a measurement reads, in order, without exact duplicates, with an identity."""

import gzip
import json
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from spinal.canonical import digest_of
from spinal.errors import PromptFileNotFound, PromptSetEmpty, PromptSetInvalid, PromptSetNotFound

BUILTIN_SETS = ("hh-harmless-512", "hh-harmless-256", "hh-harmless-128", "hh-harmless-64")
"""Built-in sets: the first n of the same 512 prompts of hh-rlhf harmless-base (MIT licence)."""
DEFAULT_SET = "hh-harmless-512"
MAX_FILE_BYTES = 256 * 1024 * 1024
ASSISTANT_TURN = "\n\nAssistant:"


@dataclass(frozen=True)
class PromptSet:
    """Ordered prompts, exact duplicates removed, each with its own continuation where the source has one."""

    prompts: tuple[str, ...]
    continuations: tuple[str | None, ...]
    name: str | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise PromptSetEmpty("the prompt set holds no prompt", hint="give at least one non-empty prompt")
        if len(self.prompts) != len(self.continuations):
            raise PromptSetInvalid("prompts and continuations differ in number")

    @cached_property
    def digest(self) -> str:
        """sha256 over prompts and continuations, in order; the name does not count."""
        return digest_of({"prompts": self.prompts, "continuations": self.continuations})

    def __len__(self) -> int:
        return len(self.prompts)


def make_prompt_set(pairs: list[tuple[str, str | None]], *, name: str | None, origin: str) -> PromptSet:
    """Drop blank prompts and exact duplicates (first occurrence wins); raises PromptSetEmpty."""
    seen: dict[str, str | None] = {}
    for prompt, continuation in pairs:
        if prompt.strip() and prompt not in seen:
            seen[prompt] = continuation if continuation and continuation.strip() else None
    if not seen:
        raise PromptSetEmpty(f"{origin} holds no usable prompt", hint="give at least one non-empty prompt")
    return PromptSet(tuple(seen), tuple(seen.values()), name)


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


def load_prompts(source: str) -> PromptSet:
    """A built-in set by name, or a file: text (one prompt a line), JSONL with ``prompt`` (and optionally
    ``continuation``), or hh-rlhf pairs (``chosen``/``rejected``); gzip accepted.

    Raises PromptFileNotFound, PromptSetInvalid, PromptSetEmpty.
    """
    if source in BUILTIN_SETS:
        return builtin_prompts(source)
    path = Path(source)
    if not path.is_file():
        raise PromptFileNotFound(
            f"no prompt file at {source}", hint=f"give a file, or a built-in set: {', '.join(BUILTIN_SETS)}"
        )
    return parse_prompts(_read_text(path), name=path.name)


@cache
def builtin_prompts(name: str) -> PromptSet:
    """A set that ships with the package; raises PromptSetNotFound."""
    if name not in BUILTIN_SETS:
        raise PromptSetNotFound(f"no prompt set named {name!r}", hint=f"built in: {', '.join(BUILTIN_SETS)}")
    packed = resources.files("spinal").joinpath("data/hh-harmless-512.jsonl.gz").read_bytes()
    whole = parse_prompts(gzip.decompress(packed).decode("utf-8"), name=name)
    count = int(name.rsplit("-", 1)[1])
    return PromptSet(whole.prompts[:count], whole.continuations[:count], name)


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


def _read_text(path: Path) -> str:
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
