"""A body of JSON lines instead of JSON: the file that ``compare --prompts`` takes, sent as it is."""

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match

from service.http.bodies import require_uncompressed
from spinal.prompts.formats import Source
from spinal.prompts.formats.jsonl import JSONL
from spinal.prompts.sets import PromptSet
from spinal.prompts.stored import LINES, check_storable

ORIGIN = "the request"
IN_CONTRACT = {
    "requestBody": {
        "content": {
            LINES[0]: {
                "schema": {"type": "string"},
                "example": '{"prompt": "How do I reset a password?"}\n{"prompt": "Why?", "category": "reasons"}\n',
            }
        }
    }
}
"""What the contract says of such a body, beside JSON on the same route."""


class OfLines(APIRoute):
    """Answers requests whose body is JSON lines, and leaves others to the route behind it."""

    def matches(self, scope: Any) -> Any:
        if scope["type"] == "http":
            media_type = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
            if media_type not in LINES:
                return Match.NONE, {}
        return super().matches(scope)


async def _body(request: Request) -> bytes:
    require_uncompressed(request)
    return await request.body()


# Read before the caller is let in, as JSON is: who waits for a body holds no connection.
Lines = Annotated[bytes, Depends(_body)]


def read_lines(raw: bytes, name: str | None) -> PromptSet:
    """Raises PromptSetInvalid, naming the line, and PromptSetEmpty."""
    found = JSONL.read(Source(ORIGIN, raw)).prompt_set(name=name, origin=ORIGIN)
    check_storable(found)
    return found
