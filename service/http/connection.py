"""One connection of a client, and what is waited for on it: how long it may take, what it holds, how it ends."""

import asyncio
import contextlib
import fcntl
import struct
import termios
import time
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, cast
from uuid import uuid4

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.problems import MEDIA_TYPE
from spinal.documents.canonical import canonical_json
from spinal.errors import BodyMalformed, NotReady, RequestTooSlow, SpinalError

LOOK_EVERY_S = 0.5
LINGER_S = 2.0
"""So long a client that is still sending is given to read why nobody reads it: hung up on at once, it might not."""
LINGER_BYTES = 1 << 20
LEFT = "left"
PROBES = ("/livez", "/readyz")
RETRY_AFTER_S = "5"


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


class Keeper(Protocol):
    """Who keeps all connections of a server (service/http/connections.py)."""

    def came(self, connection: "GuardedConnection") -> bool: ...

    def is_full(self) -> bool: ...

    def moves(self, connection: "GuardedConnection", former: Phase) -> None: ...

    def end(self, connection: "GuardedConnection", why: str) -> None: ...

    def forget(self, connection: "GuardedConnection") -> None: ...


class GuardedConnection(H11Protocol):
    """One connection."""

    guard: Keeper

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn never serves anything but a stream
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
