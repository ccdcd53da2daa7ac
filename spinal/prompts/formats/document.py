"""One JSON document: a list of prompts, records or chats, or an object that holds such a list."""

import json
import re
from typing import Any

from spinal.errors import PromptSetInvalid
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.gathered import Gathered
from spinal.prompts.records import EXAMPLE, RECORDS, parse_json, read_entry

LIST = re.compile(r"""\[\s*(["'{\[\]]|$)""")
"""How a JSON list of prompts begins; ``[INST]`` and ``[1]`` are text."""


def _knows(source: Source) -> bool:
    if source.first.startswith("{"):
        # One record on one line is JSON lines, whose errors name the line.
        return (source.suffix == ".json" or "\n" in source.body.strip()) and _is_whole(source.body)
    if LIST.match(source.first) is None:
        return source.suffix == ".json"
    # A file that only begins like a list may be text where its name says so, and else is a broken list.
    return _is_whole(source.body) or (source.suffix != ".txt" and not _has_lists_as_lines(source))


def _is_whole(text: str) -> bool:
    """Whether there is one JSON value, and nothing but blanks behind it."""
    text = text.lstrip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return not text[end:].strip()


def _has_lists_as_lines(source: Source) -> bool:
    return source.first.endswith("]") and _is_whole(source.first)


def _read(source: Source) -> Gathered:
    found = Gathered()
    for number, entry in enumerate(_entries(parse_json(source.body, source.name), source.name), start=1):
        found.add(read_entry(entry, f"{source.name}, entry {number}"))
    return found


def _entries(value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return [value] if value and all(_is_message(entry) for entry in value) else value
    if isinstance(value, dict):
        if any(all(member in value for member in members) for members in RECORDS):
            return [value]
        lists = [member for member in value.values() if isinstance(member, list)]
        if len(lists) == 1:
            return lists[0]
    raise PromptSetInvalid(f"{name}: expected a JSON list of prompts", hint=EXAMPLE)


def _is_message(entry: Any) -> bool:
    return isinstance(entry, dict) and "role" in entry and "content" in entry


DOCUMENT = FileFormat("json", _knows, _read)
