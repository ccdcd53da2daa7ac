"""``/metrics`` of one process of the API, on a port of its own: what is asked, how long it takes, what is under way.

Labels are route templates, methods and statuses, never text of a caller.
"""

import time
from collections.abc import Callable

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.methods import METHODS
from service.http.probes import is_probe
from service.settings import Settings

log = structlog.get_logger(__name__)
KNOWN = frozenset((*METHODS, "HEAD", "OPTIONS"))
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SUBMISSIONS = ("POST", "/v1/audits")
CUT_OFF = "cut_off"
"""Instead of a status, where the caller went before there was one."""


class ApiMetrics:
    """Counters and gauges of this process, and the registry that is served with them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "spinal_http_requests",
            "Requests that have been answered",
            labelnames=("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "spinal_http_request_seconds",
            "Until the answer was sent, without requests that asked to wait",
            labelnames=("method", "route"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "spinal_http_requests_in_flight", "Requests that are being answered", registry=self.registry
        )
        self.waiting = Gauge(
            "spinal_http_requests_waiting",
            "Of those in flight, requests that asked with ?wait= to be answered later",
            registry=self.registry,
        )
        self.submissions = Counter(
            "spinal_submissions",
            "Audits submitted, by what became of it: queued, answered (every result existed), checked, refused, failed",
            labelnames=("outcome",),
            registry=self.registry,
        )

        self.inspections = Gauge("spinal_inspections", "Processes that look at checkpoints now", registry=self.registry)

    def serve(self, settings: Settings) -> Callable[[], None]:
        """Serve ``/metrics`` where the settings ask for it; what is returned ends that. A port that is taken, by
        another process of the same API for example, is told in the log: requests are answered without it."""
        if settings.api_metrics_port is None:
            return lambda: None
        try:
            server, thread = start_http_server(
                settings.api_metrics_port, addr=settings.metrics_host, registry=self.registry
            )
        except OSError as error:
            log.error("metrics are not served", port=settings.api_metrics_port, error=type(error).__name__)
            return lambda: None
        log.info("serving metrics", host=settings.metrics_host, port=server.server_port)

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return end


class Measuring:
    """Measures every request but probes."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_probe(scope["path"]):
            await self._app(scope, receive, send)
            return
        status, started = CUT_OFF, time.perf_counter()

        async def seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        waits = b"wait=" in scope["query_string"]
        with self._metrics.in_flight.track_inprogress():
            if waits:
                self._metrics.waiting.inc()
            try:
                await self._app(scope, receive, seen)
            finally:
                if waits:
                    self._metrics.waiting.dec()
                self._ended(scope, status, None if waits else time.perf_counter() - started)

    def _ended(self, scope: Scope, status: str, seconds: float | None) -> None:
        method = scope["method"] if scope["method"] in KNOWN else "other"
        route = getattr(scope.get("route"), "path", None) or "none"
        self._metrics.requests.labels(method, route, status).inc()
        if seconds is not None:
            self._metrics.seconds.labels(method, route).observe(seconds)
        if (method, route) == SUBMISSIONS:
            self._metrics.submissions.labels(outcome_of(status)).inc()


def outcome_of(status: str) -> str:
    """What became of a submission; ``checked`` where it was only looked at (``validate_only``)."""
    known = {"200": "checked", "201": "answered", "202": "queued"}
    return known.get(status) or ("refused" if status.startswith("4") else "failed")
