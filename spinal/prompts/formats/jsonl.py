"""A JSON value a line: records, strings, lists of messages. Blank lines and comments are passed over."""

from spinal.errors import PromptSetInvalid
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.gathered import Gathered
from spinal.prompts.records import parse_json, read_entry

SUFFIXES = (".jsonl", ".ndjson")


def _knows(source: Source) -> bool:
    if source.suffix in SUFFIXES or source.first.startswith("{"):
        return True
    return _is_chat(source.first) or (source.first.startswith('"') and all_strings(source))


def _is_chat(line: str) -> bool:
    try:
        value = parse_json(line, "") if line.startswith("[{") else None
    except PromptSetInvalid:
        return False
    return isinstance(value, list) and all(isinstance(one, dict) and "role" in one for one in value)


def all_strings(source: Source) -> bool:
    """Whether every line is a JSON string."""
    try:
        return all(
            line.strip().startswith('"') and isinstance(parse_json(line, ""), str) for _, line in source.significant()
        )
    except PromptSetInvalid:
        return False


def _read(source: Source) -> Gathered:
    found, seen = Gathered(), 0
    for number, line in source.significant():
        where = source.where(number)
        found.add(read_entry(parse_json(line, where), where))
        seen += 1
    blank = sum(not line.strip() for line in source.lines)
    found.left_out["blank"] = blank
    found.left_out["comment lines"] = len(source.lines) - seen - blank
    if source.suffix not in SUFFIXES and source.first.startswith('"'):
        found.remarks.append(f"{source.name}: every line is a JSON string; its quotes are no part of the prompts")
    return found


JSONL = FileFormat("jsonl", _knows, _read)
