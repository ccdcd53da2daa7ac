"""HEAD beside every GET, and what a path can be asked."""

from collections.abc import Collection

from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""Of routes. HEAD is answered wherever GET is, OPTIONS everywhere."""


class Heads:
    """Answers HEAD with the headers that GET would have, and no body. Outside compression, so that both say
    the same."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                if message.get("more_body", False):
                    return
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            scope["method"] = "GET"
            scope.setdefault("state", {})["method"] = "HEAD"
            await self._app(scope, receive, without_body)
        finally:
            scope["method"] = "HEAD"


def method_of(scope: Scope) -> str:
    """The method as it was asked."""
    return str(scope.get("state", {}).get("method", scope["method"]))


def methods_of(app: FastAPI, scope: Scope, path: str) -> Collection[str]:
    """What ``path`` can be asked, in order of the alphabet; nothing where there is no such path."""
    found = {method for method in METHODS if _is_route(app, {**scope, "path": path, "method": method})}
    if not found:
        return ()
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set()))


def _is_route(app: FastAPI, scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in app.router.routes)
