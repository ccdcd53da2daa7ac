"""Requests that wait for an end (``?wait=``): they hold neither a thread nor a connection to the database, and ask
nothing until they are told.

One connection of each process listens for what ends, in whatever process that happens. A slow look at all that is
waited for, and one whenever listening begins, covers what was not told: by a database that restarted, or by processes
of the former release.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, TypeVar
from uuid import UUID

import psycopg
import structlog
from anyio import CancelScope, CapacityLimiter, create_task_group, fail_after, move_on_after, sleep, to_thread
from fastapi import Depends, Request
from psycopg import sql
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

from service.database.unit_of_work import Ledger
from service.http.context import Turn
from service.platform.addresses import conninfo, direct_database_url
from service.runs.wake import ENDED, still_going
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)
HEAR_AT_MOST_S = 5.0
"""So long a listener hears nothing before it asks whether the database is there."""
ANSWER_S = 10.0
"""Longest that it may take to answer."""
AGAIN_S = 1.0
T = TypeVar("T")


class Waits:
    """The requests of this process that wait, by the id of what they wait for. Used by the event loop's thread alone.

    Those that are woken look a few at a time: a thousand that wait for one audit are not ahead of everybody else's
    request, when it ends."""

    def __init__(self, settings: Settings) -> None:
        self._most = settings.max_waiters
        self._looking = CapacityLimiter(max(1, settings.db_pool_size // 4))
        self._places: dict[UUID, set[asyncio.Event]] = {}
        self._count = 0
        self._over = False

    def __len__(self) -> int:
        return self._count

    @property
    def ids(self) -> Collection[UUID]:
        """What is waited for."""
        return self._places.keys()

    def wake(self, ids: Collection[UUID]) -> None:
        """Have all that wait for one of ``ids`` look."""
        for each in ids:
            for place in self._places.get(each, ()):
                place.set()

    def end(self) -> None:
        """The process stops: whoever waits is answered with what is known now, and nobody waits from here on."""
        self._over = True
        self.wake(list(self._places))

    async def until(
        self,
        request: Request,
        subject: UUID,
        seconds: float,
        ended: Callable[[], Awaitable[T | None]],
        now: Callable[[], Awaitable[T]],
    ) -> T:
        """What ``ended`` found as soon as it found something; after so many seconds, what there is ``now``. At once
        where too many wait already; when the client goes away, its place is free. Raises what the two raise."""
        if seconds <= 0:
            return await now()
        deadline = time.monotonic() + seconds
        with self._place(subject) as place:
            if place is None:
                return await self._look(now)
            # After taking the place: what ends from here on is told.
            found = await self._look(ended)
            gone = asyncio.create_task(_gone(request))
            gone.add_done_callback(lambda _: place.set())
            try:
                while found is None and (left := deadline - time.monotonic()) > 0:
                    with move_on_after(0 if self._over else left):
                        await place.wait()
                    if gone.done() or self._over or not place.is_set():
                        break
                    place.clear()
                    found = await self._look(ended)
            finally:
                gone.cancel()
            return await self._look(now) if found is None else found

    async def _look(self, look: Callable[[], Awaitable[T]]) -> T:
        async with self._looking:
            return await look()

    @contextmanager
    def _place(self, subject: UUID) -> Iterator[asyncio.Event | None]:
        if self._over or self._count >= self._most:
            yield None
            return
        place = asyncio.Event()
        self._places.setdefault(subject, set()).add(place)
        self._count += 1
        try:
            yield place
        finally:
            self._count -= 1
            self._places[subject].discard(place)
            if not self._places[subject]:
                del self._places[subject]


async def get_waits(request: Request) -> Waits:
    waits: Waits = request.app.state.waits
    return waits


WaitsDep = Annotated[Waits, Depends(get_waits)]


async def _gone(request: Request) -> None:
    """Until the client has gone away: nobody else tells a handler."""
    with suppress(Exception):
        while (await request.receive())["type"] != "http.disconnect":
            pass


@asynccontextmanager
async def waking(shared: State) -> AsyncIterator[None]:
    """Listens and looks for those who wait, as long as the block lasts."""
    waits: Waits = shared.waits
    overdue = asyncio.Event()
    async with create_task_group() as tasks:
        tasks.start_soon(_listen, shared.settings, waits, overdue)
        tasks.start_soon(_sweep, shared, waits, overdue)
        yield
        waits.end()
        tasks.cancel_scope.cancel()


async def _listen(settings: Settings, waits: Waits, overdue: asyncio.Event) -> None:
    while True:
        try:
            await _hear(settings, waits, overdue)
        except (psycopg.Error, OSError) as error:
            log.warning("not listening", error=type(error).__name__)
        await sleep(AGAIN_S)


async def _hear(settings: Settings, waits: Waits, overdue: asyncio.Event) -> None:
    """Wake whoever is told of, until the connection is lost; raises psycopg.Error, OSError (TimeoutError too)."""
    # Not ended halfway, which would leave the server a client that it waits for; it has a limit of its own.
    with CancelScope(shield=True):
        connection = await psycopg.AsyncConnection.connect(
            conninfo(direct_database_url(settings)),
            autocommit=True,
            connect_timeout=settings.db_connect_timeout_s,
            application_name="spinal",
        )
    try:
        with fail_after(ANSWER_S):
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(ENDED)))
        # What ended while nobody listened.
        overdue.set()
        while True:
            async for told in connection.notifies(timeout=HEAR_AT_MOST_S):
                with suppress(ValueError):
                    waits.wake([UUID(told.payload)])
            with fail_after(ANSWER_S):
                await connection.execute("SELECT 1")
    finally:
        # Without a farewell that could wait for a network.
        connection.pgconn.finish()


async def _sweep(shared: State, waits: Waits, overdue: asyncio.Event) -> None:
    settings: Settings = shared.settings
    while True:
        with move_on_after(settings.wait_sweep_s):
            await overdue.wait()
        overdue.clear()
        if not (waited := set(waits.ids)):
            continue
        turn = Turn(shared.turns, settings.db_pool_timeout_s)
        with suppress(DatabaseUnavailable, SQLAlchemyError):
            try:
                await turn.take()
                going = await to_thread.run_sync(_going, shared.ledger, waited, abandon_on_cancel=True)
            finally:
                turn.give_back()
            # Also for what is not there any more: they find that out.
            waits.wake(waited - going)


def _going(ledger: Ledger, ids: Collection[UUID]) -> set[UUID]:
    with ledger.read() as session:
        return still_going(session, ids)
