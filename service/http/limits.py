"""How many requests a tenant may send to this process: a bucket of tokens for each, and what answers say of it."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.settings import Settings
from spinal.errors import RequestLimitReached

WINDOW_S = 60
POLICY = "requests"
TOLD = "rate_limit"
"""Member of a request's state with what its answer says."""


@dataclass
class _Bucket:
    tokens: float
    at: float


class RequestLimits:
    """One bucket for each tenant that has been seen: strangers have none, and fill no memory."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def take(self, tenant: str, state: Any) -> None:
        """Count one request of an authenticated tenant, and note in the request's ``state`` what its answer says.
        Raises RequestLimitReached where the tenant has none left."""
        self._take(tenant, tenant, state)

    def take_by_link(self, tenant: str) -> None:
        """Count one request of whoever has a link to a report of the tenant: apart from the tenant's own, which they
        neither use up nor are told of. Raises RequestLimitReached."""
        self._take(tenant, f"link\n{tenant}", None)

    def _take(self, tenant: str, bucket_of: str, state: Any) -> None:
        most = self._settings.limits_of(tenant).requests_per_minute
        with self._lock:
            now = self._clock()
            bucket = self._buckets.setdefault(bucket_of, _Bucket(most, now))
            bucket.tokens = min(most, bucket.tokens + (now - bucket.at) * most / WINDOW_S)
            bucket.at = now
            taken = bucket.tokens >= 1.0
            bucket.tokens -= taken
            left = bucket.tokens
        if state is not None:
            setattr(state, TOLD, _told(most, left))
        if not taken:
            refused = RequestLimitReached(
                f"{most} requests a minute are allowed, and more were sent",
                hint="send them more slowly; ask an operator for more (SPINAL_TENANT_LIMITS)",
                limit=most,
            )
            refused.retry_after_s = max(1.0, (1.0 - left) * WINDOW_S / most)
            raise refused


def _told(most: int, left: float) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers: what may be asked in a window; what is left of it, and in how
    many seconds it is whole again."""
    whole_in = math.ceil((most - left) * WINDOW_S / most)
    return {
        "RateLimit-Policy": f'"{POLICY}";q={most};w={WINDOW_S}',
        "RateLimit": f'"{POLICY}";r={math.floor(left)};t={whole_in}',
    }


class TellsLimits:
    """Writes into an answer, whatever it is, what was noted of its caller's limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start" and TOLD in state:
                MutableHeaders(scope=message).update(state[TOLD])
            await send(message)

        await self._app(scope, receive, send_with_limit)
