"""Telemetry through OpenTelemetry: FastAPI's own spans, the run row's ``traceparent``, a span per attempt of a worker.

Without ``SPINAL_OTLP_ENDPOINT`` nothing is recorded or sent; a caller's ``traceparent`` still travels to the run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from service.settings import Settings
from spinal.version import VERSION

SEND_TIMEOUT_S = 2.0
W3C = TraceContextTextMapPropagator()


def configure_telemetry(settings: Settings, service: str) -> None:
    """Send this process's spans to the collector of the settings; once per process.

    Raises ValueError when a collector is named and the ``telemetry`` extra is not installed.
    """
    if settings.otlp_endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ValueError("SPINAL_OTLP_ENDPOINT is set; install the 'telemetry' extra to send telemetry") from error
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": service, "service.version": VERSION}))
    endpoint = f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=SEND_TIMEOUT_S)))
    trace.set_tracer_provider(provider)


def current_traceparent() -> str | None:
    """The W3C ``traceparent`` of the span this code runs in, if there is one."""
    carrier: dict[str, str] = {}
    W3C.inject(carrier)
    return carrier.get("traceparent")


def trace_id(traceparent: str | None) -> str | None:
    """The id of a ``traceparent``, as logs show it."""
    return traceparent.split("-")[1] if traceparent else None


class RunSpan:
    """The span of one attempt."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def fail(self, code: str) -> None:
        self._span.set_attribute("spinal.error.code", code)
        self._span.set_status(Status(StatusCode.ERROR, code))


@contextmanager
def run_span(kind: str, traceparent: str | None, *, run_id: str, attempt: int) -> Iterator[RunSpan]:
    """A span around one attempt, child of the request that asked for it first; sent when the block ends."""
    parent = W3C.extract({"traceparent": traceparent}) if traceparent else None
    attributes: Attributes = {"spinal.run.id": run_id, "spinal.run.attempt": attempt}
    tracer = trace.get_tracer("spinal.worker")
    with tracer.start_as_current_span(f"run {kind}", parent, SpanKind.CONSUMER, attributes) as span:
        yield RunSpan(span)
    flush_telemetry()


def flush_telemetry() -> None:
    """Send what is recorded: the process may be killed before its next run."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(int(SEND_TIMEOUT_S * 1000))
