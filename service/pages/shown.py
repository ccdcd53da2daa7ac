"""Errors as pages: what a browser is shown in place of a problem object."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from service.http.addresses import asked
from service.http.problems import problem_response
from service.pages.render import page
from service.pages.visitors import FORM, SESSION, forget, form_cookie, keep, led_to, token_of
from spinal.errors import RequestInvalid, RouteNotFound, SpinalError, Unauthorized

NOT_TOLD = frozenset({"content-type", "content-length"})


class PageRoute(APIRoute):
    """A route whose failures are pages, too, and where somebody who is not signed in is asked to."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def shown(request: Request) -> Response:
            try:
                return await handle(request)
            except Unauthorized:
                return sign_in(request, status=401)
            except RequestValidationError as error:
                return error_page(request, _told(error))
            except SpinalError as error:
                return error_page(request, error)

        return shown


def _told(error: RequestValidationError) -> SpinalError:
    place = error.errors()[0]["loc"]
    if place[0] == "path":
        return RouteNotFound("there is nothing at this address")
    return RequestInvalid(f"{place[0]}/{place[-1]}: {error.errors()[0]['msg']}", hint="correct the address")


def error_page(request: Request, error: SpinalError) -> Response:
    """An error as one plain page, with the status and headers that programs get."""
    told = problem_response(request, error)
    headers = {name: value for name, value in told.headers.items() if name not in NOT_TOLD}
    problem = error.to_problem()
    title = "No such page" if isinstance(error, RouteNotFound) else problem["title"]
    return page(
        "says", status=error.status, headers=headers, title=title, says=sentence(problem["detail"]),
        hint=sentence(problem.get("hint", "")), home=True,
    )  # fmt: skip


def plain_page(error: SpinalError) -> Response:
    """The same for whoever has nothing but a link: it leads nowhere."""
    problem = error.to_problem()
    return page(
        "says", status=error.status, title=problem["title"], says=sentence(problem["detail"]),
        hint=sentence(problem.get("hint", "")), home=False,
    )  # fmt: skip


def sentence(text: str) -> str:
    told = text[:1].upper() + text[1:]
    return told if not told or told[-1] in ".!?" else f"{told}."


def sign_in(request: Request, *, status: int = 200, says: str = "", following: str | None = None) -> Response:
    """The page to sign in, which leads back to what was asked for."""
    cookie = form_cookie(request)
    wanted = _wanted(request) if following is None else following
    shown = page(
        "sign_in", status=status, says=says, following=led_to(wanted), form=token_of(request, cookie, signed_in=False),
        again=request.headers.get("sec-fetch-site") == "cross-site",
        headers={"WWW-Authenticate": 'Bearer realm="spinal"'} if status == 401 else None,
    )  # fmt: skip
    if SESSION in request.cookies:
        # It has ended.
        forget(request, shown)
    if cookie.fresh:
        keep(request, shown, FORM, cookie.value)
    return shown


def _wanted(request: Request) -> str:
    if request.method != "GET":
        return "/"
    found = asked(request)
    path = request.scope["path"]
    return f"{path}?{found.query}" if found.query else str(path)
