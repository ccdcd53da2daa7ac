"""JSON that callers wrote, read within bounds: so deep, so many values, such numbers. No torch.

Nobody else parses the JSON of a checkpoint; :mod:`spinal.checkpoints.opening` bounds the bytes. What comes back can be
written as UTF-8, hashed, and walked by recursion; what cannot is refused in one line that starts with the name of what
was read.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from spinal.checkpoints.repetition import without_repetition
from spinal.errors.faults import shown

MOST_DEPTH = 64
"""Of brackets inside brackets. Configurations of transformers and its tokenizers stay below ten."""
MOST_VALUES = 8_000_000
"""The largest vocabulary today, 262,144 tokens with their merges, makes 3 million values; each may take 70 bytes."""
MOST_DIGITS = 100
"""Of one number: some tokenizers write their unlimited length, 10**30, in full."""
PIECE = 1 << 20
QUOTE = ord('"')
COMMA, OPENING, CLOSING = 1, 2, 3
STEPS = np.array([0, 0, 1, -1], dtype=np.int8)
"""What each mark adds to the depth."""
MARKS = np.zeros(256, dtype=np.uint8)
MARKS[list(b",")], MARKS[list(b"[{")], MARKS[list(b"]}")] = COMMA, OPENING, CLOSING
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
Number = TypeVar("Number", int, float)


class Unreadable(ValueError):
    """What a caller wrote is not what it should be. The text is one line, starts with the name of what was read, and
    holds no path."""


def parse_json(raw: bytes | str, what: str, *, most_values: int = MOST_VALUES, infinity: bool = False) -> Any:
    """``raw`` as JSON in UTF-8, called ``what`` in errors. With ``infinity``, ``Infinity`` and ``-Infinity`` are read
    as numbers, as transformers writes them into some configurations; otherwise only what RFC 8259 knows.

    Refuses what other readers would read otherwise: a member named twice, NaN, half of a surrogate pair. Raises
    Unreadable.
    """
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        data = text.encode("utf-8") if isinstance(raw, str) else raw
    except UnicodeError as error:
        raise Unreadable(f"{what} is not UTF-8 text") from error
    _check_structure(data, what, most_values)
    try:
        found = json.loads(
            text,
            object_pairs_hook=without_repetition,
            parse_constant=_infinite if infinity else _refused,
            parse_int=_short(int),
            parse_float=_short(float),
        )
        if ESCAPED_SURROGATE.search(data):
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise Unreadable(f"{what} holds text that is no Unicode (half of a surrogate pair)") from error
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise Unreadable(f"{what} is not readable JSON ({shown(why)})") from error
    return found


def _check_structure(data: bytes, what: str, most_values: int) -> None:
    """Depth and number of values, counted piece by piece: the parser itself would recurse and build them first."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = False
    depth = values = 0
    for start in range(0, len(data), PIECE):
        piece = np.frombuffer(data, np.uint8, min(PIECE, len(data) - start), start)
        quoted = np.logical_xor.accumulate(piece == QUOTE) ^ inside
        inside = bool(quoted[-1])
        marks = MARKS[piece]
        marks[quoted] = 0
        found = marks[marks != 0]
        # A comma is a step of zero.
        levels = depth + np.cumsum(STEPS[found], dtype=np.int64)
        if levels.size and int(levels.max()) > MOST_DEPTH:
            raise Unreadable(f"{what} is nested deeper than {MOST_DEPTH} brackets")
        depth = int(levels[-1]) if levels.size else depth
        values += int(np.count_nonzero(found != CLOSING))
        if values > most_values:
            raise Unreadable(f"{what} holds more than {most_values:,} values")


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _infinite(constant: str) -> float:
    return _refused(constant) if constant == "NaN" else float(constant.lower())


def _short(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    def number(digits: str) -> Number:
        if len(digits) > MOST_DIGITS:
            raise ValueError(f"a number of {len(digits)} digits")
        value = kind(digits)
        if isinstance(value, float) and math.isinf(value):
            raise ValueError(f"{shown(digits)} is too large a number")
        return value

    return number
