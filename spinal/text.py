"""Text from elsewhere, made fit to be read: names in files, messages of libraries, words of callers.

A terminal obeys some characters, a reader does not see others, and a message of a library names places of the machine
that it runs on.
"""

import math
import os
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

TOP_FOLDERS = frozenset((
    "bin", "boot", "data", "dev", "etc", "home", "lib", "lib64", "Library", "media", "mnt", "opt", "private", "proc",
    "root", "run", "sbin", "srv", "sys", "tmp", "usr", "Users", "var", "Volumes",
))  # fmt: skip
"""Where absolute paths begin on any machine; those of this one are added."""
PATH = re.compile(
    r"""(?P<quote>['"`])(?:file://)?(?P<quoted>/(?:(?!(?P=quote)).)+)(?P=quote)"""
    r"""|(?<![\w./~%-])(?<!local:)(?:file://)?(?P<bare>/\S+)"""
)
"""An absolute path: to its closing quote, else to the next space, whatever it holds. A caller's own ``local:/...`` is
not ours to hide."""
FOLDER = re.compile(r"/+([\w.+-]+)")
WORKER = re.compile(r"(?:\bworker )?(?<![\w./-])[\w.-]+/[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
"""A worker: host and delivery."""
SHORTEST_HOST = 4
"""Shorter names are syllables of other words, and hidden only where a host must stand."""


def rfc3339(moment: datetime, timespec: Literal["auto", "seconds", "milliseconds"] = "milliseconds") -> str:
    """A moment in UTC, as documents, messages and logs have it (RFC 3339).

    >>> rfc3339(datetime(2027, 1, 31, 12, tzinfo=UTC), "seconds")
    '2027-01-31T12:00:00Z'
    """
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def visible(text: str) -> str:
    r"""``text`` with everything written out that a reader would not see or a terminal would obey: control characters,
    escape sequences, directions of writing, joiners, breaks of lines, lone surrogates. Cleaning twice changes nothing.

    >>> print(visible("w\x1b[2K\u202e!"))
    w\x1b[2K\u202e!
    """
    return text if text.isprintable() else _each(text, _written_out)


def visible_json(text: str) -> str:
    r"""JSON that says the same, with such characters as ``\u`` escapes; line breaks between its members stay.

    >>> print(visible_json('["\x9b31m"]'))
    ["\u009b31m"]
    """
    return text if text.isprintable() else _each(text, lambda char: char if char == "\n" else _json_escape(char))


def without_places(text: str) -> str:
    """``text`` without absolute paths, of which the last part stays, and without names of hosts.

    >>> without_places("no file named x in directory /srv/models/acme/sft")
    'no file named x in directory sft'
    """
    return _without_hosts(PATH.sub(_last_part, WORKER.sub("a worker", text)))


def readable(value: Any) -> Any:
    """A JSON value for any reader: text made visible and without places, numbers that are not finite as text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {readable(str(name)): readable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value]
    return without_places(visible(str(value)))


def _each(text: str, written: Callable[[str], str]) -> str:
    return "".join(char if char.isprintable() else written(char) for char in text)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _last_part(found: re.Match[str]) -> str:
    quote, path = found["quote"] or "", found["quoted"] or found["bare"]
    address = path.startswith("//") and found.string[: found.start()].endswith(":")
    top = FOLDER.match(path)
    if address or top is None or top[1] not in _top_folders():
        return found[0]
    return f"{quote}{path.rstrip('/').rpartition('/')[2]}{quote}"


def _top_folders() -> frozenset[str]:
    try:
        return TOP_FOLDERS.union(os.listdir("/"))
    except OSError:
        return TOP_FOLDERS


def _without_hosts(text: str) -> str:
    full = socket.gethostname()
    for name in dict.fromkeys((full, full.partition(".")[0])):
        if name in ("", "localhost") or name not in text:
            continue
        word = re.escape(name)
        if name.isalpha() or len(name) < SHORTEST_HOST:
            # It may be a word of the sentence, too.
            pattern = rf"(?<=@){word}\b|(?<=//){word}\b|\b{word}(?=:\d)"
        else:
            pattern = rf"(?<![\w-]){word}(?![\w-])"
        text = re.sub(pattern, "a host", text)
    return text
