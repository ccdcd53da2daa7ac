"""Connections of clients that are slow, silent or many: bounds in time, in number and in memory.

uvicorn bounds nothing but the time that a connection may be idle: a client that sends half a request, or does not take
its answer, has a descriptor and memory of the process for good. Here each connection has a phase, and a look at all of
them, twice a second, ends those that have been in it for too long; a new one that finds no place takes that of the
oldest whose request is half sent. A client that can still be answered reads why.
"""

import asyncio
import errno
import time
from collections import Counter
from itertools import islice
from typing import Any

import structlog

from service.http.connection import LEFT, LOOK_EVERY_S, GuardedConnection, Limits, Phase
from service.settings import Settings

log = structlog.get_logger(__name__)
RESERVED = 64
"""Connections beyond the bound on all, for probes."""
SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""What accept() fails with for lack of something that closing a connection gives back."""
LEAST = 16
MOST_LOOKED_AT = 32
"""Of the oldest of a phase, where one is looked for: each costs a call of the system."""


def limits_of(settings: Settings, descriptors: int) -> Limits:
    """``descriptors`` are what the process may open; some are for the database, models and inspectors."""
    own = min(256, descriptors // 2) + settings.db_pool_size + RESERVED
    connections = max(LEAST, min(settings.http_connections, descriptors - own))
    return Limits(
        head_s=settings.http_header_s,
        body_s=settings.http_body_s,
        silence_s=settings.http_silence_s,
        bytes_per_s=settings.http_bytes_per_s,
        connections=connections,
        half_sent=min(settings.http_half_sent, max(LEAST, connections // 2)),
        held=settings.http_held_mb << 20,
    )


class Guard:
    """The connections of one server. Used by the event loop's thread alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.connections
        # In the order in which they came into their phase.
        self._in: dict[Phase, dict[GuardedConnection, None]] = {phase: {} for phase in Phase}
        self._ended: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._in.values()))

    def is_full(self) -> bool:
        """Whether there is no place even for probes."""
        return len(self) > self._most + RESERVED

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes of each connection."""

        class Ours(GuardedConnection):
            guard = self

        return Ours

    def came(self, connection: "GuardedConnection") -> bool:
        """A connection is new; whether it has a place, at the cost of others where there is none."""
        while len(self) >= self._most:
            # Half sent before idle: who is idle was somebody's whole request a moment ago.
            if not self._end_oldest("no place", Phase.LEAVING, Phase.HEAD, Phase.BODY, Phase.IDLE):
                break
        has_place = len(self) < self._most
        self._in[Phase.HEAD][connection] = None
        return has_place

    def forget(self, connection: "GuardedConnection") -> None:
        """A connection is no more."""
        self._in[connection.phase].pop(connection, None)

    def moves(self, connection: "GuardedConnection", former: Phase) -> None:
        """A connection has come into another phase."""
        self._in[former].pop(connection, None)
        self._in[connection.phase][connection] = None
        while len(self._in[Phase.HEAD]) + len(self._in[Phase.BODY]) > self._limits.half_sent:
            if not self._end_oldest("too many half sent", Phase.HEAD, Phase.BODY):
                break

    def _end_oldest(self, why: str, *phases: Phase) -> bool:
        """End one connection of the first of ``phases`` that has any: of head and body, the one that began first."""
        for phase in phases:
            joint = (Phase.HEAD, Phase.BODY) if phase in (Phase.HEAD, Phase.BODY) else (phase,)
            found = [each for each in map(self._oldest, joint) if each is not None]
            if found:
                self.end(min(found, key=lambda each: each.began), why)
                return True
        return False

    def _oldest(self, phase: Phase) -> "GuardedConnection | None":
        """Of those that have nothing left to be read: a client that has sent all it has to say is not late because this
        process is."""
        first = islice(self._in[phase], MOST_LOOKED_AT)
        return next((each for each in first if not each.has_unread()), None)

    def end(self, connection: "GuardedConnection", why: str) -> None:
        """Hang up, and say so where it can be read."""
        if why != LEFT:
            self._ended[why] += 1
        connection.hang_up(why)
        self.forget(connection)

    def look(self) -> None:
        """End what has taken too long, or holds too much."""
        now, limits = time.monotonic(), self._limits
        held: list[tuple[float, int, GuardedConnection]] = []
        for phase in Phase:
            for each in list(self._in[phase]):
                if why := each.too_slow(now, limits):
                    self.end(each, why)
                elif each.held:
                    held.append((each.began, each.held, each))
        total = sum(size for _, size, _ in held)
        for _, size, each in sorted(held, key=lambda one: one[0]):
            if total <= limits.held:
                break
            if each.phase in (Phase.HEAD, Phase.BODY) or each.unsent:
                total -= size
                self.end(each, "too much held")
        self._most = min(limits.connections, self._most + LEAST)
        if self._ended:
            log.warning("ended connections", **{why.replace(" ", "_"): count for why, count in self._ended.items()})
            self._ended.clear()

    def make_room(self) -> None:
        """The process, or the system, has no descriptor or memory for a connection that waits: make room, and take
        fewer for a while."""
        for _ in range(max(LEAST, len(self) // 4)):
            if not self._end_oldest("shortage", Phase.LEAVING, Phase.HEAD, Phase.BODY, Phase.IDLE):
                break
        self._most = max(LEAST, min(self._most, len(self)))

    async def watch(self) -> None:
        """Look, for ever."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._handle)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                self.look()
            except Exception:
                log.exception("unexpected error")

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in SHORTAGE:
            # Of accept(): the loop tries again a second later.
            self.make_room()
            return
        loop.default_exception_handler(context)
