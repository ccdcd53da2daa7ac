"""What handlers depend on: settings, ledger, the caller."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.database.unit_of_work import Ledger, Reading
from service.keys.store import SCOPES, Caller, authenticate
from service.settings import Settings
from spinal.errors import Forbidden, RequestInvalid, Unauthorized

bearer = HTTPBearer(auto_error=False, description="API key `spk_<id>_<secret>`")
ANONYMOUS = Caller("default", frozenset(SCOPES), None)
"""The caller of a service whose authentication is switched off."""


def get_ledger(request: Request) -> Ledger:
    ledger: Ledger = request.app.state.ledger
    return ledger


def get_app_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


LedgerDep = Annotated[Ledger, Depends(get_ledger)]
SettingsDep = Annotated[Settings, Depends(get_app_settings)]


async def get_reading(ledger: LedgerDep) -> AsyncIterator[Reading]:
    """The one transaction in which a request looks up its key and reads what it asks for."""
    reading = Reading(ledger)
    try:
        yield reading
    finally:
        if reading.is_open:
            await run_in_threadpool(reading.end)


ReadingDep = Annotated[Reading, Depends(get_reading)]


def get_caller(
    reading: ReadingDep,
    settings: SettingsDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Who calls; raises Unauthorized."""
    if settings.auth == "disabled":
        return ANONYMOUS
    if credentials is None:
        raise Unauthorized("no API key was sent", hint="send Authorization: Bearer spk_...")
    with reading.read() as session:
        caller = authenticate(session, credentials.credentials, pepper=settings.key_pepper.get_secret_value())
    if caller is None:
        raise Unauthorized("the API key is unknown, expired or revoked", hint="ask an operator for a key")
    return caller


def require(scope: str) -> Callable[..., Caller]:
    """A dependency that admits callers with ``scope`` (or ``admin``)."""

    def admitted(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        if scope not in caller.scopes and "admin" not in caller.scopes:
            raise Forbidden(f"this key lacks the scope {scope!r}", hint="ask an operator for a key that has it")
        return caller

    return admitted


def admit_writer(reading: ReadingDep, caller: Annotated[Caller, Depends(require("write"))]) -> Caller:
    """Admits callers who may write; a request that opens transactions of its own holds none beside them."""
    reading.end()
    return caller


Reader = Annotated[Caller, Depends(require("read"))]
Writer = Annotated[Caller, Depends(admit_writer)]


def refuse_unknown_query(request: Request) -> None:
    """A misspelt filter must not silently answer with everything; raises RequestInvalid."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = {parameter.alias for parameter in route.dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        raise RequestInvalid(
            f"query/{unknown[0]}: no such parameter", hint=f"known: {', '.join(sorted(known)) or 'none'}"
        )
