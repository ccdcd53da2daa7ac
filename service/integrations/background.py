"""What a process of the API does for registries beside its requests: make the audits that are due, and poll.

With connections to the database of its own, one for each of the two: what it does goes over networks for minutes, in
which requests have their turns.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

import anyio
import structlog
from anyio import create_task_group, move_on_after, sleep, to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import State

from service.database.ids import new_id
from service.database.unit_of_work import Ledger
from service.integrations.asking import Turns, ask_for_next
from service.integrations.polls import poll_those_due
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)
LOOK_EVERY_S = 1.0
POLL_LOOKS_S = 5.0
"""Whether a poll is due is asked so often."""
CONNECTIONS = 2
MET_S = 5.0
"""Behind something that nobody expected."""


class Asking:
    """Wakes whoever makes audits when an event came to this process."""

    def __init__(self) -> None:
        self._came = anyio.Event()

    def wake(self) -> None:
        self._came.set()

    async def wait(self) -> None:
        """Until something came, or it is time to look for what came elsewhere."""
        with move_on_after(LOOK_EVERY_S):
            await self._came.wait()
        self._came = anyio.Event()


@asynccontextmanager
async def serving_registries(shared: State) -> AsyncIterator[None]:
    """Goes on as long as the block lasts; nothing where no registry is set up. A service that stops leaves alone what
    is going on: a row's time to be left alone ends, and somebody else goes on."""
    settings: Settings = shared.settings
    shared.asking = Asking()
    if not settings.registries.by_name:
        yield
        return
    ledger = Ledger(settings.model_copy(update={"db_pool_size": CONNECTIONS}))
    try:
        async with create_task_group() as tasks:
            tasks.start_soon(_ask, shared, ledger)
            tasks.start_soon(_poll, shared, ledger, new_id())
            yield
            tasks.cancel_scope.cancel()
    finally:
        ledger.close()


async def _ask(shared: State, ledger: Ledger) -> None:
    turns = Turns()
    while True:
        await shared.asking.wait()
        while await _carried_out(lambda: ask_for_next(ledger, shared.settings, shared.inspectors, turns)):
            pass


async def _poll(shared: State, ledger: Ledger, holder: UUID) -> None:
    while True:
        if await _carried_out(lambda: bool(poll_those_due(ledger, shared.settings, holder))):
            shared.asking.wake()
        await sleep(POLL_LOOKS_S)


async def _carried_out(work: Callable[[], bool]) -> bool:
    """In a thread. Nothing that it meets ends the loop."""
    try:
        return await to_thread.run_sync(work, abandon_on_cancel=True)
    except DatabaseUnavailable as error:
        log.warning("registries: database unavailable", error=error.detail)
    except SQLAlchemyError as error:
        # Not migrated yet, for example: a line now and then.
        log.error("registries: the database refuses", error=type(error).__name__)
    except Exception:
        log.exception("unexpected error")
    await sleep(MET_S)
    return False
