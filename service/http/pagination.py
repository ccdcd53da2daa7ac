"""Keyset cursors: opaque to callers, stable while rows are added."""

import base64
import binascii
import json
from datetime import datetime
from typing import Any

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
    """The sort key in a cursor; raises RequestInvalid."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, UnicodeError):
        values = None
    if not isinstance(values, list) or len(values) != size or not all(isinstance(v, str) for v in values):
        raise RequestInvalid("query/cursor: not a cursor of this listing", hint="use the 'next' of the page before")
    return values


def decode_time(value: str) -> datetime:
    """A time inside a cursor; raises RequestInvalid."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise RequestInvalid("query/cursor: not a cursor of this listing", hint="use the 'next' of the page before")
    return found


def page_answer(page: BaseModel, url: URL, cursor: str | None) -> Response:
    """A page of what stands at ``url``, with ``Link: rel="next"`` for the page behind it."""
    if cursor is None:
        return answer(page)
    target = url.include_query_params(cursor=cursor)
    return answer(page, {"Link": f'<{target.path}?{target.query}>; rel="next"'})
