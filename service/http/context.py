"""What handlers depend on: settings, ledger, the caller."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from anyio import CancelScope, CapacityLimiter, move_on_after
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.database.unit_of_work import RETRY_HINT, Ledger, Reading
from service.keys.store import SCOPES, Caller, authenticate
from service.settings import Settings
from spinal.errors import DatabaseUnavailable, Forbidden, RequestInvalid, Unauthorized

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


class Turn:
    """A request's right to a connection. There are as many as connections, so that nobody who has a thread waits for a
    connection, while others who have a connection wait for a thread."""

    def __init__(self, limiter: CapacityLimiter, patience_s: float) -> None:
        self._limiter, self._patience_s, self._held = limiter, patience_s, False

    async def take(self) -> None:
        """Raises DatabaseUnavailable when none has come free in time."""
        if self._held:
            return
        with move_on_after(self._patience_s):
            await self._limiter.acquire_on_behalf_of(self)
            self._held = True
        if not self._held:
            raise DatabaseUnavailable("every connection to the database is busy", hint=RETRY_HINT)

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._limiter.release_on_behalf_of(self)


async def get_turn(request: Request, settings: SettingsDep) -> AsyncIterator[Turn]:
    """Held until the handler is done; one that sleeps gives it back meanwhile."""
    turn = Turn(request.app.state.turns, settings.db_pool_timeout_s)
    await turn.take()
    try:
        yield turn
    finally:
        turn.give_back()


TurnDep = Annotated[Turn, Depends(get_turn, scope="function")]


async def get_reading(ledger: LedgerDep, turn: TurnDep) -> AsyncIterator[Reading]:
    """The one transaction in which a request looks up its key and reads what it asks for; ended before the answer is
    sent."""
    reading = Reading(ledger)
    try:
        yield reading
    finally:
        if reading.is_open:
            with CancelScope(shield=True):
                await run_in_threadpool(reading.end)


ReadingDep = Annotated[Reading, Depends(get_reading, scope="function")]


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
