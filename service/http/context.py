"""What handlers depend on: settings, ledger, the caller."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Concatenate, ParamSpec, TypeVar

from anyio import CapacityLimiter, WouldBlock, create_task_group, move_on_after, sleep, to_thread
from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import State

from service.database.unit_of_work import RETRY_HINT, Ledger, Reading, Reads
from service.http.limits import RequestLimits
from service.keys.store import PRIORITY, SCOPES, Caller, authenticate
from service.keys.uses import EVERY_S, Uses
from service.settings import Settings
from spinal.checkpoints.bounded import Inspectors
from spinal.errors import DatabaseUnavailable, Forbidden, NotReady, RequestInvalid, Unauthorized

bearer = HTTPBearer(auto_error=False, description="API key `spk_<id>_<secret>`")
ANONYMOUS = Caller("default", frozenset(SCOPES), None)
"""The caller of a service whose authentication is switched off."""
LAST_WORD_S = 2.0
"""How long a service that stops tries to tell which keys were used."""
P = ParamSpec("P")
T = TypeVar("T")


async def get_ledger(request: Request) -> Ledger:
    ledger: Ledger = request.app.state.ledger
    return ledger


async def get_app_settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def get_inspectors(request: Request) -> AsyncIterator[Inspectors]:
    """Raises NotReady when too many requests look at checkpoints already. Such a request keeps its turn while a child
    looks, or a mount hangs: others find turns that none of them can have."""
    shared = request.app.state
    place = Turn(shared.inspecting, shared.settings.db_pool_timeout_s)
    try:
        await place.take()
    except DatabaseUnavailable:
        raise NotReady(
            "too many requests look at checkpoints at once", hint="send the request again in a second"
        ) from None
    try:
        yield shared.inspectors
    finally:
        place.give_back()


LedgerDep = Annotated[Ledger, Depends(get_ledger)]
SettingsDep = Annotated[Settings, Depends(get_app_settings)]
# Named ahead of a Writer in a handler: its place comes first, then its turn.
InspectorsDep = Annotated[Inspectors, Depends(get_inspectors, scope="function")]


class Turn:
    """A request's right to a connection. There are as many as connections, so that nobody who has a thread waits for a
    connection, while others who have a connection wait for a thread."""

    def __init__(self, limiter: CapacityLimiter, patience_s: float) -> None:
        self._limiter, self._patience_s, self._held = limiter, patience_s, False

    async def take(self) -> None:
        """Raises DatabaseUnavailable when none has come free in time."""
        if self._held:
            return
        try:
            self._limiter.acquire_on_behalf_of_nowait(self)
            self._held = True
        except WouldBlock:
            await self._wait()

    async def _wait(self) -> None:
        with move_on_after(self._patience_s):
            await self._limiter.acquire_on_behalf_of(self)
            self._held = True
        if not self._held:
            raise DatabaseUnavailable("every connection to the database is busy", hint=RETRY_HINT)

    def give_back(self) -> None:
        if self._held:
            self._held = False
            self._limiter.release_on_behalf_of(self)


Known = Callable[[Reads], Caller]
"""Finds out who sends a request; raises Unauthorized."""


class Asker:
    """Whoever sent a request that only reads."""

    def __init__(self, request: Request, known: Known, caller: Caller | None = None, *, scope: str = "read") -> None:
        """``known`` finds out who it is; ``caller`` is who it is, where that is known already. Whoever asks needs the
        scope."""
        self._shared, self._state, self._known, self._scope = request.app.state, request.state, known, scope
        self.settings: Settings = self._shared.settings
        self._caller = caller

    @property
    def caller(self) -> Caller:
        """Who it is: known once something was read."""
        if self._caller is None:
            raise RuntimeError("nothing was read yet")
        return self._caller

    async def read(self, verb: Callable[Concatenate[Reads, str, P], T], *args: P.args, **members: P.kwargs) -> T:
        """``verb(ledger, tenant, ...)``, carried out in one thread, whose reads are one transaction. The key is looked
        up there, too, before anything else: a thread or a transaction more costs a request as much as what it asks for.

        Raises Unauthorized, Forbidden, DatabaseUnavailable, and what ``verb`` raises.
        """
        async with _turn(self._shared):
            return await run_in_threadpool(self._read, lambda ledger, tenant: verb(ledger, tenant, *args, **members))

    async def keep(self, verb: Callable[Concatenate[Ledger, str, P], T], *args: P.args, **members: P.kwargs) -> T:
        """``verb(ledger, tenant, ...)``, which keeps what an answer is made of, so that the next one is the same. To be
        called behind :meth:`read`, by which it is known who asks. Raises as that."""
        if self._caller is None:
            raise ValueError("nobody knows yet who asks")
        tenant = self._caller.tenant
        async with _turn(self._shared):
            return await run_in_threadpool(lambda: verb(self._shared.ledger, tenant, *args, **members))

    def _read(self, verb: Callable[[Reads, str], T]) -> T:
        reading = Reading(self._shared.ledger)
        try:
            if self._caller is None:
                self._caller = _admitted(reading, self._shared, self._state, self._known, self._scope)
            return verb(reading, self._caller.tenant)
        finally:
            reading.end()


async def in_a_turn(request: Request, read: Callable[[Reading], T]) -> T:
    """What ``read`` finds for somebody who needs no key, in one thread, whose reads are one transaction. Raises
    DatabaseUnavailable, and what it raises."""

    def found() -> T:
        reading = Reading(request.app.state.ledger)
        try:
            return read(reading)
        finally:
            reading.end()

    async with _turn(request.app.state):
        return await run_in_threadpool(found)


@asynccontextmanager
async def _turn(shared: State) -> AsyncIterator[None]:
    turn = Turn(shared.turns, shared.settings.db_pool_timeout_s)
    await turn.take()
    try:
        yield
    finally:
        turn.give_back()


@asynccontextmanager
async def telling_uses(shared: State) -> AsyncIterator[None]:
    """Tells the ledger now and then, and at the end, which keys have been used."""
    uses: Uses = shared.key_uses

    async def tell() -> None:
        # In a turn, as everybody who needs a connection; with none free there is more to do than this.
        with suppress(DatabaseUnavailable):
            async with _turn(shared):
                # Left alone where the database hangs: a service that stops does not wait for it.
                await to_thread.run_sync(uses.tell, shared.ledger, abandon_on_cancel=True)

    async def go_on() -> None:
        while True:
            await sleep(EVERY_S)
            await tell()

    async with create_task_group() as tasks:
        tasks.start_soon(go_on)
        yield
        tasks.cancel_scope.cancel()
    with move_on_after(LAST_WORD_S):
        await tell()


def _admitted(ledger: Reads, shared: State, state: State, known: Known, scope: str) -> Caller:
    """Who calls, when their key has ``scope`` (or ``admin``), and they have not sent more than they may; ``state`` is
    that of the request."""
    caller = known(ledger)
    limits: RequestLimits = shared.request_limits
    limits.take(caller.tenant, state)
    if not caller.has(scope):
        raise Forbidden(f"this key lacks the scope {scope!r}", hint="ask an operator for a key that has it")
    return caller


def by_key(shared: State, sent: HTTPAuthorizationCredentials | None) -> Known:
    """Whoever sends this key."""
    settings: Settings = shared.settings

    def known(ledger: Reads) -> Caller:
        if settings.auth == "disabled":
            return ANONYMOUS
        key, pepper = _key(sent), settings.key_pepper.get_secret_value()
        with ledger.read() as session:
            caller = authenticate(session, key, pepper=pepper, unbound=settings.unbound_keys == "accepted")
        if caller is None:
            raise Unauthorized("the API key is unknown, expired or revoked", hint="ask an operator for a key")
        shared.key_uses.add(caller)
        return caller

    return known


def require_priority(caller: Caller, priority: int) -> None:
    """Raises Forbidden for a priority above 0 that the caller's key does not allow."""
    if priority > 0 and not caller.has(PRIORITY):
        raise Forbidden(
            f"this key lacks the scope {PRIORITY!r}, which a priority above 0 needs",
            hint=f"ask for priority 0 or below, or ask an operator for a key with the scope {PRIORITY!r}",
        )


def _key(sent: HTTPAuthorizationCredentials | None) -> str:
    if sent is None:
        raise Unauthorized("no API key was sent", hint="send Authorization: Bearer spk_...")
    return sent.credentials


Sent = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


async def get_asker(request: Request, sent: Sent) -> Asker:
    """Raises Unauthorized where no key was sent; one that was is looked up with what it is to read."""
    shared = request.app.state
    if shared.settings.auth == "required":
        _key(sent)
    return Asker(request, by_key(shared, sent), _admitted_ahead(request))


async def get_writer(request: Request, sent: Sent) -> AsyncIterator[Caller]:
    """A caller who may write. The handler opens transactions of its own, in its turn, and none is open beside them."""
    shared = request.app.state
    async with _turn(shared):
        caller = _admitted_ahead(request)
        if caller is None:
            known = by_key(shared, sent)
            caller = await run_in_threadpool(_admitted, shared.ledger, shared, request.state, known, "write")
        yield caller


async def admit_ahead(request: Request, scope: str) -> None:
    """Look up who sends a request, in a turn that ends before its body is read, and keep them for the handler. Raises
    Unauthorized, Forbidden, DatabaseUnavailable."""
    shared = request.app.state
    sent = await bearer(request)
    if shared.settings.auth == "required":
        _key(sent)
    # Few at once, for as long as it takes: a thousand bodies that begin do not keep turns from those who read.
    async with shared.admitting, _turn(shared):
        known = by_key(shared, sent)
        request.state.caller = await run_in_threadpool(_admitted, shared.ledger, shared, request.state, known, scope)


def _admitted_ahead(request: Request) -> Caller | None:
    found: Caller | None = getattr(request.state, "caller", None)
    return found


Reader = Annotated[Asker, Depends(get_asker)]
# Of the scope "function": the turn ends before the answer is sent.
Writer = Annotated[Caller, Depends(get_writer, scope="function")]


async def refuse_unknown_query(request: Request) -> None:
    """A misspelt filter must not silently answer with everything; raises RequestInvalid."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute):
        return
    known = {parameter.alias for parameter in route.dependant.query_params}
    if unknown := sorted(set(request.query_params) - known):
        raise RequestInvalid(
            f"query/{unknown[0]}: no such parameter", hint=f"known: {', '.join(sorted(known)) or 'none'}"
        )
