"""Members that several nouns have on the wire."""

import re
from collections.abc import Sequence
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from spinal.errors import RequestInvalid
from spinal.report.formats import FORMATS

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
Reference = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=PRINTABLE)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
LabelValue = Annotated[str, StringConstraints(max_length=256, pattern=PRINTABLE)]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
HEX = r"^[0-9a-f]{64}$"
DigestPath = Annotated[str, Path(pattern=HEX, description="64 lowercase hex digits")]
DATE = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]")


def _written_out(value: object) -> object:
    if isinstance(value, str) and not DATE.match(value):
        raise ValueError("a time is written out, with its offset: 2026-11-23T00:00:00Z")
    return value


Timestamp = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""Without the check, numbers would pass as seconds since 1970, which the contract does not say."""


def _known_format(value: str) -> str:
    if value not in FORMATS:
        *others, last = [f"'{name}'" for name in FORMATS]
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": f"{', '.join(others)} or {last}"}
        )
    return value


ReportFormat = Annotated[str, AfterValidator(_known_format)]
"""Name of a format of reports; the contract lists those that there are."""


def label_pairs(given: Sequence[str] | None) -> tuple[tuple[str, str], ...]:
    """What ``?label=key:value`` asks for; raises RequestInvalid."""
    pairs = []
    for item in given or ():
        key, colon, value = item.partition(":")
        if not colon or not key or "\x00" in item or len(item) > 512:
            raise RequestInvalid("query/label: expected key:value", hint="for example label=release:2026-11")
        pairs.append((key, value))
    return tuple(pairs)
