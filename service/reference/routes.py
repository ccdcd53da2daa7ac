"""/docs and /openapi.json, for everybody."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from service.http.addresses import shared
from service.reference.page import content_policy, render

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
def contract(request: Request) -> Response:
    """The contract, with the address at which the caller may reach it."""
    kept = request.app.state
    if not hasattr(kept, "contract"):
        kept.contract = JSONResponse(request.app.openapi()).body
    servers = JSONResponse([{"url": shared("") or "/"}]).body
    return Response(b'%s,"servers":%s}' % (kept.contract[:-1], servers), media_type="application/json")


@router.get("/docs")
def page(request: Request) -> HTMLResponse:
    """The contract as a page that needs nothing from anywhere, no script either."""
    kept = request.app.state
    if not hasattr(kept, "reference"):
        kept.reference = render(request.app.openapi())
    headers = {"Content-Security-Policy": content_policy(), "Referrer-Policy": "no-referrer"}
    return HTMLResponse(kept.reference, headers=headers)
