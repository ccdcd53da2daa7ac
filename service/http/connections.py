"""Connections of clients that are slow, silent or many: bounds in time, in number and in memory.

uvicorn bounds nothing but the time that a connection may be idle: a client that sends half a request, or does not take
its answer, has a descriptor and memory of the process for good. Here each connection has a phase, and a look at all of
them, twice a second, ends those that have been in it for too long; a new one that finds no place takes that of the
oldest whose request is half sent. A client that can still be answered reads why.
"""

import asyncio
import contextlib
import errno
import fcntl
import struct
import termios
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any, cast
from uuid import uuid4

import h11
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import MEDIA_TYPE
from service.settings import Settings
from spinal.documents.canonical import canonical_json
from spinal.errors import BodyMalformed, NotReady, RequestTooSlow, SpinalError

log = structlog.get_logger(__name__)
LOOK_EVERY_S = 0.5
LINGER_S = 2.0
"""So long a client that is still sending is given to read why nobody reads it: hung up on at once, it might not."""
LINGER_BYTES = 1 << 20
LEFT = "left"
RESERVED = 64
"""Connections beyond the bound on all, for probes."""
PROBES = ("/livez", "/readyz")
SHORTAGE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
"""What accept() fails with for lack of something that closing a connection gives back."""
LEAST = 16
RETRY_AFTER_S = "5"
MOST_LOOKED_AT = 32
"""Of the oldest of a phase, where one is looked for: each costs a call of the system."""


class Phase(Enum):
    """What is waited for on a connection."""

    HEAD = "head"
    BODY = "body"
    ANSWER = "answer"
    """The request is there whole, and the application's own limits hold."""
    IDLE = "idle"
    LEAVING = "leaving"
    """Answered, and hung up on soon; what still comes is thrown away."""


@dataclass(frozen=True)
class Limits:
    """Durations are seconds; the members are those of the settings."""

    head_s: float
    body_s: float
    silence_s: float
    bytes_per_s: int
    connections: int
    half_sent: int
    held: int
    """Bytes."""

    @classmethod
    def of(cls, settings: Settings, descriptors: int) -> "Limits":
        """``descriptors`` are what the process may open; some are for the database, models and inspectors."""
        own = min(256, descriptors // 2) + settings.db_pool_size + RESERVED
        connections = max(LEAST, min(settings.http_connections, descriptors - own))
        return cls(
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


class GuardedConnection(H11Protocol):
    """One connection."""

    guard: Guard

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # asyncio hands a stream over
        """What uvicorn gets writes and closes through here."""
        self.phase, self.began = Phase.HEAD, time.monotonic()
        self.heard = self.began
        self.received = self.written = self.thrown = 0
        self.sending: tuple[float, int] | None = None
        """Since when a client leaves an answer, and how much it had taken then."""
        self.taken, self.took = 0, self.began
        self._raw = transport
        self._gone = False
        super().connection_made(cast(asyncio.Transport, _Through(transport, self)))
        if not self.guard.came(self):
            if self.guard.is_full():
                self.guard.end(self, "no place")
                return
            self.app = cast(Any, _probes_only(cast(ASGIApp, self.app)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self.guard.forget(self)
        super().connection_lost(exc)
        # uvicorn forgets it where a connection breaks.
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.phase is Phase.LEAVING:
            self.thrown += len(data)
            if self.thrown > LINGER_BYTES:
                self._raw.abort()
            return
        if self.phase is Phase.IDLE:
            self._enter(Phase.HEAD)
        self.heard = time.monotonic()
        self.received += len(data)
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:
            # Answered before it had said all: nobody reads the rest.
            self.transport.close()
        super().on_response_complete()
        self._follow()

    def send_400_response(self, msg: str) -> None:
        self._answer(BodyMalformed("this is no request of HTTP/1.1", hint="send a well-formed request"))

    def shutdown(self) -> None:
        """The server stops: what is not here whole will not be carried out."""
        if self.phase in (Phase.HEAD, Phase.BODY):
            self.guard.end(self, "stopping")
            return
        super().shutdown()

    def _follow(self) -> None:
        """Find out, from what was read, what is waited for now."""
        if self._gone or self.phase is Phase.LEAVING:
            return
        theirs, answered = self.conn.their_state, self.cycle is None or self.cycle.response_complete
        if theirs is h11.SEND_BODY:
            self._enter(Phase.BODY)
        elif not answered:
            self._enter(Phase.ANSWER)
        elif theirs is h11.IDLE:
            self._enter(Phase.HEAD if self.cycle is None or self.conn.trailing_data[0] else Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        if phase is self.phase:
            return
        former, self.phase = self.phase, phase
        self.began = self.heard = time.monotonic()
        if phase is Phase.IDLE:
            self.received = 0
        self.guard.moves(self, former)

    @property
    def unsent(self) -> int:
        """Bytes of answers in the memory of this process."""
        return self._raw.get_write_buffer_size()

    @property
    def held(self) -> int:
        return self.unsent + (self.received if self.phase in (Phase.BODY, Phase.ANSWER) else 0)

    def too_slow(self, now: float, limits: Limits) -> str | None:
        """Why the connection is to be ended, if it is."""
        if self._leaves_its_answer(now, limits):
            return "answer not taken"
        if self.phase is Phase.LEAVING:
            return LEFT if now - self.began > LINGER_S and not self.unsent else None
        if self.phase is Phase.HEAD:
            return "head too slow" if now - self.began > limits.head_s and not self.has_unread() else None
        if self.phase is not Phase.BODY:
            return None
        if self.flow.read_paused or (now - self.heard > LOOK_EVERY_S and self.has_unread()):
            # It is this process that does not read: not the client's time.
            self.began += LOOK_EVERY_S
            self.heard = now
            return None
        took = now - self.began
        if now - self.heard > limits.silence_s or took > limits.body_s:
            return "body too slow"
        return "body too slow" if took > limits.silence_s and self.received < limits.bytes_per_s * took else None

    def _leaves_its_answer(self, now: float, limits: Limits) -> bool:
        if not (unsent := self.unsent):
            self.sending = None
            return False
        # Nor counts what waits in the system's buffer until the client's side takes it.
        taken = self.written - unsent - self._asked(termios.TIOCOUTQ)
        if self.sending is None:
            self.sending, self.taken, self.took = (now, taken), taken, now
            return False
        if taken > self.taken:
            self.taken, self.took = taken, now
        since, before = self.sending
        if now - self.took > limits.silence_s:
            return True
        return now - since > limits.silence_s and taken - before < limits.bytes_per_s * (now - since)

    def has_unread(self) -> bool:
        """Whether something of the client waits to be read by this process."""
        return self._asked(termios.FIONREAD) > 0

    def _asked(self, what: int) -> int:
        """Bytes in one of the system's buffers, where the system tells."""
        with contextlib.suppress(OSError, AttributeError):
            told = fcntl.ioctl(self._raw.get_extra_info("socket").fileno(), what, bytes(4))
            return int(struct.unpack("i", told)[0])
        return 0

    def hang_up(self, why: str) -> None:
        """Answer where nobody has begun to, and there is somebody who asked; else only close."""
        asked = self.phase is Phase.BODY or (self.phase is Phase.HEAD and self.received > 0)
        answering = self.cycle is not None and not self.cycle.response_complete and self.cycle.response_started
        if not asked or answering or self._raw.is_closing():
            self._raw.abort()
            self._gone = True
            return
        if self.phase is Phase.BODY:
            # The application reads that its client has gone.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._raw.write(_problem(RequestTooSlow(SAID[why], hint="send the whole request at once")))
        # What does not fit the system's buffer would be waited for.
        (self._raw.abort if self.unsent else self._raw.close)()
        self._gone = True

    def _answer(self, error: SpinalError) -> None:
        self._raw.write(_problem(error))
        self.leave()

    def wrote(self, size: int) -> None:
        self.written += size

    def leave(self) -> None:
        """Close once the client has had time to read its answer, where it may still be sending."""
        if self._gone or self.phase is Phase.LEAVING:
            return
        sends = self.conn.their_state in (h11.SEND_BODY, h11.ERROR)
        if not sends or self._raw.is_closing() or not self._raw.can_write_eof():
            self._raw.close()
            return
        self._raw.write_eof()
        self.flow.resume_reading()
        self._enter(Phase.LEAVING)


SAID = {
    "head too slow": "the head of the request did not come in time",
    "body too slow": "the body of the request did not come in time",
    "too many half sent": "too many requests are half sent, and this one was among the oldest",
    "no place": "too many connections are open, and this request was among the oldest that are half sent",
    "shortage": "too many connections are open, and this request was among the oldest that are half sent",
    "too much held": "too much is half sent, and this request was among the oldest",
    "stopping": "the service stops, and the request was not there whole",
}


class _Through:
    """A transport as uvicorn sees it: what is written is counted, and closing waits for the client to read."""

    def __init__(self, transport: asyncio.Transport, connection: GuardedConnection) -> None:
        self._transport, self._connection = transport, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._connection.wrote(len(data))
        self._transport.write(data)

    def close(self) -> None:
        self._connection.leave()

    def is_closing(self) -> bool:
        return self._transport.is_closing() or self._connection.phase is Phase.LEAVING


def _probes_only(app: ASGIApp) -> ASGIApp:
    """The application for connections beyond the bound: it answers whether it lives, and nothing else."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await app(scope, receive, send)
            return
        error = NotReady("too many connections are open", hint="send the request again in a few seconds")
        headers = {"Connection": "close", "Retry-After": RETRY_AFTER_S}
        await Response(_body(error), error.status, headers, MEDIA_TYPE)(scope, receive, send)

    return answer


def _body(error: SpinalError) -> bytes:
    return canonical_json(error.to_problem() | {"instance": f"urn:uuid:{uuid4()}"})


def _problem(error: SpinalError) -> bytes:
    """A whole answer, for who is not answered by the application."""
    body = _body(error)
    reason = {400: "Bad Request", 408: "Request Timeout"}[error.status]
    head = f"HTTP/1.1 {error.status} {reason}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    return (head + "Connection: close\r\n\r\n").encode() + body
