"""The key of a request is looked up before its body is read."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.http.bodies import JsonRoute
from service.http.context import admit_ahead, get_asker, get_writer
from service.http.problems import problem_response
from spinal.errors import SpinalError

SCOPE_OF: dict[Callable[..., Any] | None, str] = {get_asker: "read", get_writer: "write"}


class KeyFirst(APIRoute):
    """A route whose body the framework reads only when its sender may ask for what the route does; by itself it reads
    and parses a body before it looks at anything else. Requests without a body are admitted where they are carried out,
    in one turn."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, scope = super().get_route_handler(), _scope_of(self.dependant)

        async def admitted(request: Request) -> Response:
            if scope is not None and _has_body(request):
                try:
                    await admit_ahead(request, scope)
                except SpinalError as error:
                    # What is left of the body is not waited for.
                    return problem_response(request, error, {"Connection": "close"})
            return await handle(request)

        return admitted


class KeyThenJson(KeyFirst, JsonRoute):
    """The same, with a body that is then held to be JSON."""


def _scope_of(dependant: Dependant) -> str | None:
    """What the caller of a route needs, by what the route depends on."""
    for each in dependant.dependencies:
        found = SCOPE_OF.get(each.call) or _scope_of(each)
        if found is not None:
            return found
    return None


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
