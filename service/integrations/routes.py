"""/v1/integrations"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import URL

from service.database.unit_of_work import Reads
from service.http.addresses import asked
from service.http.answers import answer
from service.http.bodies import require_json, require_uncompressed
from service.http.context import Reader, Turn
from service.http.documented import ACCESS, documented
from service.http.limits import RequestLimits
from service.http.pagination import decode, decode_newest, encode, page_answer
from service.integrations.schemas import EventOut, RegistryOut, RegistryPage, VersionOut, VersionPage, VersionState
from service.integrations.verbs import ACCEPTED, find_sender, list_registries, list_versions, receive
from service.registries import KINDS, Registry
from service.settings import Settings
from spinal import errors

router = APIRouter(prefix="/v1/integrations", tags=["integrations"])

Named = Annotated[
    str | None,
    Query(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$", description="The registry, where several are of a kind"),
]
NamePart = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Its name")]
EVENT_ERRORS = (
    errors.SignatureInvalid,
    errors.RegistryNotFound,
    errors.BodyMalformed,
    errors.BodyTooLarge,
    errors.MediaTypeUnsupported,
    errors.RequestInvalid,
    errors.RequestLimitReached,
    errors.DatabaseUnavailable,
    errors.NotReady,
)
BODY: dict[str, Any] = {
    "security": [],
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
}
"""What the contract says of the body, which is read when it is known who sent it."""


def _events_of(kind: str) -> Callable[..., Awaitable[Response]]:
    async def event(request: Request, registry: Named = None) -> Response:
        require_uncompressed(request)
        require_json(request)
        body = await request.body()
        shared = request.app.state
        settings: Settings = shared.settings
        name, sender = await run_in_threadpool(find_sender, settings, kind, registry, request.headers, body)
        limits: RequestLimits = shared.request_limits
        limits.take(sender.tenant, request.state)
        turn = Turn(shared.turns, settings.db_pool_timeout_s)
        try:
            await turn.take()
            outcome = await run_in_threadpool(receive, shared.ledger, name, sender, request.headers, body)
        finally:
            turn.give_back()
        shared.asking.wake()
        fresh = outcome.outcome == ACCEPTED and not outcome.repeated
        return answer(EventOut.of(outcome), status=202 if fresh else 200)

    return event


for _kind in KINDS:
    router.add_api_route(
        f"/{_kind}",
        _events_of(_kind),
        methods=["POST"],
        operation_id=f"receive{_kind.capitalize()}Event",
        description=f"An event of a registry of kind `{_kind}`, signed as that registry signs; no API key. It is kept, "
        "and answered before anything comes of it.",
        status_code=202,
        response_model=EventOut,
        responses={
            200: {
                "model": EventOut,
                "description": "Nothing new comes of it: a test, no rule, the same again",
            },
            **documented(*EVENT_ERRORS),
        },
        openapi_extra=BODY,
    )


@router.get("", operation_id="listRegistries", response_model=RegistryPage, responses=documented(*ACCESS))
async def listing(
    request: Request,
    reader: Reader,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Registries of the caller's tenant by name, with their last event and poll."""
    after = decode(cursor, 1)[0] if cursor is not None else None
    return await reader.read(_page, reader.settings, asked(request), after, limit)


def _page(ledger: Reads, tenant: str, settings: Settings, url: URL, after: str | None, limit: int) -> Response:
    found = list_registries(ledger, tenant, _known(settings, tenant), after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].name) if len(found) > limit else None
    return page_answer(RegistryPage(items=[RegistryOut.of(each) for each in page], next=following), url, following)


@router.get(
    "/{registry}/versions",
    operation_id="listRegistryVersions",
    response_model=VersionPage,
    responses=documented(*ACCESS, errors.RegistryNotFound),
)
async def versions(
    registry: NamePart,
    request: Request,
    reader: Reader,
    state: VersionState | None = None,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """Versions that rules of a registry chose, newest first, each with its state and its audit."""
    return await reader.read(_versions, reader.settings, asked(request), registry, state, decode_newest(cursor), limit)


def _versions(
    ledger: Reads,
    tenant: str,
    settings: Settings,
    url: URL,
    name: str,
    state: str | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> Response:
    known = _known(settings, tenant)
    found = list_versions(ledger, tenant, known, name, state, after=after, limit=limit + 1)
    page = found[:limit]
    following = encode(page[-1].created_at, page[-1].id) if len(found) > limit else None
    return page_answer(VersionPage(items=[VersionOut.of(each) for each in page], next=following), url, following)


def _known(settings: Settings, tenant: str) -> dict[str, Registry]:
    return settings.registries.of_tenant(tenant)
