"""Bodies in JSON: refused before they are read where they say that they are something else."""

from collections.abc import Callable, Coroutine, Sequence
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from spinal.errors import MediaTypeUnsupported

JSON = "application/json"
UTF_8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class JsonRoute(APIRoute):
    """A route whose body, where it has one, is JSON in UTF-8, not compressed. The framework would read other types as
    text, and say that the text is no object."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        listed = (self.openapi_extra or {}).get("requestBody", {}).get("content", {})
        others = [name for name in listed if name != JSON]

        async def checked(request: Request) -> Response:
            require_uncompressed(request)
            require_json(request, others)
            return await handle(request)

        return checked


def require_uncompressed(request: Request) -> None:
    """Raises MediaTypeUnsupported for a body under a content coding: none is undone here."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        raise MediaTypeUnsupported("a body is taken as it is, not compressed", hint="leave out Content-Encoding")


def require_json(request: Request, others: Sequence[str] = ()) -> None:
    """Raises MediaTypeUnsupported for a body that says it is something else; ``others`` may be sent, too."""
    sent = Message()
    sent["content-type"] = request.headers.get("content-type", "application/octet-stream")
    if sent.get_content_type() != JSON:
        taken = " or ".join([JSON, *others])
        raise MediaTypeUnsupported(f"the body must be {taken}", hint=f"set Content-Type: {JSON}")
    charset = sent.get_content_charset("utf-8")
    if charset not in UTF_8:
        raise MediaTypeUnsupported("JSON is sent in UTF-8", hint=f"encode it as UTF-8, and set Content-Type: {JSON}")
