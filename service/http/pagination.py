"""Keyset cursors: opaque to callers, stable while rows are added."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from fastapi import Response
from pydantic import BaseModel
from starlette.datastructures import URL

from service.http.answers import answer
from spinal.errors import RequestInvalid


def encode(*key: Any) -> str:
    """A cursor behind the row with this sort key."""
    values = [value.isoformat() if isinstance(value, datetime) else str(value) for value in key]
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def decode(cursor: str, size: int) -> list[str]:
    """The sort key in a cursor, in text that a database takes; raises RequestInvalid."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or len(values) != size or not all(_is_key(value) for value in values):
        raise not_a_cursor()
    return values


def _is_key(value: Any) -> bool:
    """Keys of rows are times, ids, digests and names; a lone surrogate or a NUL is in none of them."""
    return isinstance(value, str) and value.isprintable()


def decode_time(value: str) -> datetime:
    """A time inside a cursor, in UTC; raises RequestInvalid."""
    try:
        found = datetime.fromisoformat(value)
        # A database knows no offset of microseconds, and Python does.
        at = found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise not_a_cursor()
    return at


def decode_id(value: str) -> UUID:
    """An id inside a cursor; raises RequestInvalid."""
    try:
        return UUID(value)
    except ValueError:
        raise not_a_cursor() from None


def decode_number(value: str) -> int:
    """A number of four bytes inside a cursor; raises RequestInvalid."""
    if not (value.isascii() and value.isdigit() and len(value) <= 10 and int(value) < 2**31):
        raise not_a_cursor()
    return int(value)


def decode_newest(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Time and id in a cursor of a listing with the newest first; None without a cursor. Raises RequestInvalid."""
    if cursor is None:
        return None
    created, last = decode(cursor, 2)
    return decode_time(created), decode_id(last)


def not_a_cursor() -> RequestInvalid:
    return RequestInvalid("query/cursor: not a cursor of this listing", hint="use the 'next' of the page before")


def page_answer(page: BaseModel, url: URL, cursor: str | None) -> Response:
    """A page of what stands at ``url`` (:func:`service.http.addresses.asked`), with ``Link: rel="next"`` for the
    page behind it."""
    if cursor is None:
        return answer(page)
    return answer(page, {"Link": f'<{url.include_query_params(cursor=cursor)}>; rel="next"'})
