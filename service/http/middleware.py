"""Around every request: ids in, ids out, ids in the log; a limit on its body."""

import asyncio
import re
import time
from urllib.parse import quote
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.probes import ProbeLog, is_probe
from service.http.problems import unexpected_problem
from service.platform.links import told_path
from service.platform.telemetry import current_traceparent, trace_id

log = structlog.get_logger(__name__)
USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
BODY_TOO_LARGE = 413
WELL_FORMED = "".join(map(chr, range(0x21, 0x7F)))
"""What stays as it is in a query. Other bytes are escaped: the framework fails on those that are not UTF-8."""
ENDS_THE_PROCESS = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
"""The request, or the process, is being ended from outside."""
TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


class RequestContext:
    """Takes X-Request-Id (or makes one), keeps a well-formed traceparent, logs one line per request. What nothing
    further in has handled is answered here, where the ids are known."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._probes = ProbeLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["query_string"] = quote(scope["query_string"], WELL_FORMED).encode()
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if USABLE_ID.match(given) else str(uuid4())
        sent = headers.get("traceparent", "")
        # FastAPI's own span when spans are recorded, else the caller's.
        traceparent = current_traceparent() or (sent if TRACEPARENT.match(sent) else None)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["traceparent"] = traceparent
        started, status = time.perf_counter(), None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                answered["X-Request-Id"] = request_id
                if traceparent is not None:
                    answered["traceparent"] = traceparent
            await send(message)

        ids = {"request_id": request_id} | ({"trace_id": trace_id(traceparent)} if traceparent else {})
        with structlog.contextvars.bound_contextvars(**ids):
            try:
                await self._app(scope, receive, send_with_id)
            except ENDS_THE_PROCESS:
                raise
            except BaseException as error:
                log.error("unhandled error", exc_info=error)
                if status is not None:
                    # Half an answer is out: only a broken connection tells the client that it is not whole.
                    raise
                await unexpected_problem(request_id)(scope, receive, send_with_id)
            finally:
                if is_probe(scope["path"]):
                    self._probes.answered(scope["path"], status or 500, state.get("failure"))
                else:
                    log.info(
                        "request",
                        method=scope["method"],
                        path=told_path(scope["path"]),
                        status=status or 500,
                        ms=round((time.perf_counter() - started) * 1000, 1),
                    )


class BodyLimit:
    """Ends reading a body longer than ``most`` bytes, declared or not. (The framework's own limit answers in plain
    text, which no handler can turn into a problem object.)"""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        left = -1 if declared.isdigit() and int(declared) > self._most else self._most

        async def receive_with_limit() -> Message:
            nonlocal left
            message = await receive() if left >= 0 else None
            left -= len(message.get("body", b"")) if message else 0
            if message is None or left < 0:
                raise HTTPException(BODY_TOO_LARGE)
            return message

        await self._app(scope, receive_with_limit, send)
