"""Every failure becomes problem+json; nothing of the inside leaks."""

import math
from collections.abc import Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.http.addresses import asked
from service.http.methods import method_of, methods_of
from service.http.probes import is_probe
from spinal.errors import (
    BodyMalformed,
    BodyTooLarge,
    InternalError,
    MediaTypeUnsupported,
    MethodNotAllowed,
    RequestInvalid,
    RouteNotFound,
    SpinalError,
    Unauthorized,
)

log = structlog.get_logger(__name__)
MEDIA_TYPE = "application/problem+json"
REPORT = "report the request id; the log holds the cause"
COMES_BACK = frozenset(
    ("database_unavailable", "not_ready", "idempotency_in_flight", "source_unavailable", "model_store_full")
)
RETRY_AFTER_S = {503: "5", 409: "2", 429: "5"}


Shown = Callable[[Request, SpinalError], Response]
FOR_PROGRAMS = ("/v1/", "/openapi.json")
"""What these paths begin with is for programs, whatever they say they take: generated clients name every type."""


def install(app: FastAPI, page: Shown | None = None) -> None:
    """Register the handlers for our errors and the framework's; everything else is answered by the middleware. ``page``
    shows an error to a person."""
    app.state.error_page = page
    app.add_exception_handler(SpinalError, _spinal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)


def problem_response(request: Request, error: SpinalError, headers: dict[str, str] | None = None) -> JSONResponse:
    body = error.to_problem() | {"instance": f"urn:uuid:{request.state.request_id}"}
    sent = dict(headers or {})
    if error.code in COMES_BACK:
        sent["Retry-After"] = RETRY_AFTER_S.get(error.status, "5")
    asked = getattr(error, "retry_after_s", None)
    if asked is not None:
        sent["Retry-After"] = str(math.ceil(asked))
    if isinstance(error, Unauthorized):
        sent["WWW-Authenticate"] = 'Bearer realm="spinal"'
    return JSONResponse(body, status_code=error.status, headers=sent, media_type=MEDIA_TYPE)


async def _spinal(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, SpinalError):
        raise error
    if is_probe(request.scope["path"]):
        # Asked every few seconds: told once, when it changes.
        request.state.failure = f"{error.code}: {error.detail}"
    elif error.status >= 500:
        log.error("request failed", code=error.code, detail=error.detail)
    return problem_response(request, error)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return problem_response(request, BodyMalformed("the body is not JSON", hint="send UTF-8 encoded JSON"))
    errors = [{"pointer": _pointer(item["loc"]), "detail": item["msg"]} for item in found]
    first = errors[0]
    return problem_response(
        request,
        RequestInvalid(
            f"{first['pointer']}: {first['detail']}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""),
            hint="the contract is at /openapi.json",
            errors=errors,
        ),
    )


def _pointer(location: tuple[Any, ...]) -> str:
    """JSON pointer of a body member; other places keep their name in front, e.g. ``query/wait``."""
    place, *rest = location
    path = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in rest)
    return (path or "/") if place == "body" else f"{place}{path}"


async def _framework(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    found: SpinalError
    path = request.scope["path"]
    match error.status_code:
        case 404 if elsewhere := _without_slash(request):
            return Response(status_code=307, headers={"Location": elsewhere})
        case 404 if _is_for_a_person(request):
            found = RouteNotFound("there is nothing at this address")
            page: Response = request.app.state.error_page(request, found)
            return page
        case 404:
            found = RouteNotFound(f"no route {path}", hint="the contract is at /openapi.json")
        case 405 if request.method == "OPTIONS":
            return Response(status_code=204, headers=_allowed(request))
        case 405:
            found = MethodNotAllowed(f"{method_of(request.scope)} is not allowed on {path}")
        case 413:
            found = BodyTooLarge("the body is larger than this service accepts", hint="send less in one request")
        case 415:
            found = MediaTypeUnsupported("the body must be application/json", hint="set Content-Type: application/json")
        case 400:
            found = BodyMalformed("the body is not UTF-8 JSON", hint="send UTF-8 encoded JSON")
        case _:
            log.error("unexpected answer of the framework", status=error.status_code, detail=str(error.detail))
            found = InternalError("the service failed to handle the request", hint=REPORT)
    return problem_response(request, found, _allowed(request) if error.status_code == 405 else None)


def _is_for_a_person(request: Request) -> bool:
    path = request.scope["path"]
    if request.app.state.error_page is None or is_probe(path) or path.startswith(FOR_PROGRAMS):
        return False
    return "text/html" in request.headers.get("accept", "")


def _allowed(request: Request) -> dict[str, str]:
    """The Allow header: the methods of the path in the contract, not only of the route that was tried first."""
    return {"Allow": ", ".join(methods_of(request.app, request.scope, request.scope["path"]))}


def _without_slash(request: Request) -> str | None:
    """Where a path leads that only has a slash too many, as its caller sees it; never with a host."""
    path = request.scope["path"]
    shorter = path.rstrip("/")
    if shorter == path or not methods_of(request.app, request.scope, shorter):
        return None
    return str(asked(request, shorter))


def unexpected_problem(request_id: str) -> JSONResponse:
    """What a caller reads of an error that nobody expected: nothing of it but where it can be found."""
    error = InternalError("the service failed to handle the request", hint=REPORT)
    body = error.to_problem() | {"instance": f"urn:uuid:{request_id}"}
    return JSONResponse(body, status_code=error.status, media_type=MEDIA_TYPE)
