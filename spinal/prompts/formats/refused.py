"""Files that hold no prompts, or hold them in a way that is not read: refused by what they are, since each of their
lines would be measured as a prompt otherwise."""

import re

from spinal.errors import PromptSetInvalid
from spinal.prompts.formats.base import FileFormat, Source
from spinal.prompts.gathered import Gathered

HINT = "write one prompt a line, or one JSON object a line"
BINARY = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"%PDF-": "a PDF",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "a SQLite database",
    b"\x28\xb5\x2f\xfd": "packed with zstd",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
    b"\xff\xfe": "UTF-16, not UTF-8",
    b"\xfe\xff": "UTF-16, not UTF-8",
}
"""First bytes -> what the file is."""
MARKUP, SECTIONS = "a page of HTML or XML", "TOML or INI"
NAMED = {
    ".yaml": "YAML", ".yml": "YAML", ".toml": SECTIONS, ".ini": SECTIONS, ".cfg": SECTIONS,
    ".html": MARKUP, ".htm": MARKUP, ".xml": MARKUP, ".md": "Markdown", ".markdown": "Markdown",
    ".rst": "reStructuredText", ".tex": "TeX", ".py": "Python",
}  # fmt: skip
"""End of a name -> what the file is."""
ELEMENT = re.compile(r"<([A-Za-z][\w.:-]*)(\s[^<>]*)?>$")
KEY = re.compile(r"\s*(- )?[A-Za-z_][\w-]*:(\s|$)")
ITEM = re.compile(r"\s*- ")
BARE_KEY = re.compile(r"[A-Za-z_][\w-]*:\s*([|>][+-]?)?$")
SECTION = re.compile(r"\[\[?[\w.-]+\]?\]$")
ASSIGNMENT = re.compile(r"\s*[\w.-]+\s*=")


def _refuse(source: Source) -> Gathered:
    raise PromptSetInvalid(f"{source.name} is {_what(source)}, which is not read as prompts", hint=HINT)


def _what(source: Source) -> str | None:
    for magic, what in BINARY.items():
        if source.raw.startswith(magic) and not (magic == b"BZh" and not source.raw[3:4].isdigit()):
            return what
    if source.suffix in NAMED:
        return NAMED[source.suffix]
    if _is_yaml(source):
        return "YAML"
    if source.first.casefold().startswith(("<!doctype", "<html", "<?xml")) or _is_element(source):
        return MARKUP
    return SECTIONS if _is_sections(source) else None


def _start(source: Source, count: int) -> list[str]:
    return [line for _, (_, line) in zip(range(count), source.significant(), strict=False)]


def _is_element(source: Source) -> bool:
    """Whether the first line opens what the last one closes."""
    opened = ELEMENT.match(source.first.strip())
    last = next((line for line in reversed(source.lines) if line.strip()), "")
    return opened is not None and last.strip() == f"</{opened[1]}>"


def _is_yaml(source: Source) -> bool:
    first, second, *_ = [*_start(source, 2), "", ""]
    if first.startswith("%YAML"):
        return True
    if first.strip() == "---":
        return bool(KEY.match(second) or ITEM.match(second))
    if ITEM.match(first):
        return bool(KEY.match(first)) and bool(re.match(r"\s*- (prompt|messages|chosen|text|role):", first))
    return bool(BARE_KEY.match(first)) and (bool(ITEM.match(second)) or second.startswith((" ", "\t")))


def _is_sections(source: Source) -> bool:
    first, second, *_ = [*_start(source, 2), "", ""]
    return bool(SECTION.match(first.strip())) and bool(ASSIGNMENT.match(second))


REFUSED = FileFormat("refused", lambda source: _what(source) is not None, _refuse)
