"""Telemetry: one trace from a caller's request through the run to the worker's span, at a collector on loopback."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from devstack.processes import HOST, free_port
from service.app import create_app
from tests.support.fleet import Fleet
from tests.support.waiting import until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Speaks OTLP over HTTP; keeps (service, span)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    names = {item.key: item.value.string_value for item in resource.resource.attributes}
                    for scope in resource.scope_spans:
                        collector.spans.extend((names["service.name"], span) for span in scope.spans)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, service: str, name: str) -> list[Span]:
        return [span for known, span in self.spans if known == service and name in span.name]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_request_its_run_and_the_failure_in_between_are_one_trace(fleet: Fleet, collector: Collector) -> None:
    port = free_port()
    fleet.environment |= {"SPINAL_OTLP_ENDPOINT": collector.url, "SPINAL_AUTH": "disabled", "SPINAL_LOG_FORMAT": "json"}
    fleet.environment["OTEL_BSP_SCHEDULE_DELAY"] = "200"
    (fleet.double / "crash").write_text("bug")
    fleet.start("api", "-m", "uvicorn", "service.app:create_app", "--factory", "--host", HOST, "--port", str(port))
    fleet.start_dispatcher()
    fleet.start_worker()

    def ready() -> bool:
        try:
            return httpx.get(f"http://{HOST}:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    until(ready, "the API")
    answer = httpx.post(
        f"http://{HOST}:{port}/v1/audits",
        json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"},
        headers={"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "release-42"},
    )
    assert answer.status_code == 202
    assert answer.headers["X-Request-Id"] == "release-42"
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    until(lambda: fleet.rows("SELECT state FROM audits") == [("SUCCEEDED",)], "the audit to succeed")
    until(lambda: len(collector.of("spinal-worker", "run trace")) == 2, "both attempts at the collector")
    until(lambda: collector.of("spinal-api", "/v1/audits"), "the request at the collector")

    [request] = collector.of("spinal-api", "/v1/audits")
    first, second = sorted(collector.of("spinal-worker", "run trace"), key=lambda span: span.start_time_unix_nano)
    assert {span.trace_id.hex() for span in (request, first, second)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert first.parent_span_id == second.parent_span_id == request.span_id
    attributes = {item.key: item.value for item in first.attributes}
    assert attributes["spinal.error.code"].string_value == "internal_error"
    assert [first.status.code, second.status.code] == [2, 0]

    # The same ids are on the log lines: the request's on the API's, run and audit on the worker's, the trace on both.
    audit = answer.json()["id"]
    accepted = next(line for line in fleet.log("api").splitlines() if "audit accepted" in line)
    assert all(part in accepted for part in ("release-42", TRACE, audit))
    claimed = next(line for line in fleet.log("worker").splitlines() if '"claimed"' in line)
    [(run,)] = fleet.rows("SELECT id FROM runs")
    assert all(part in claimed for part in (str(run), TRACE, audit))


def test_without_a_collector_the_callers_trace_still_reaches_the_run(fleet: Fleet) -> None:
    with TestClient(create_app(fleet.settings)) as api:
        sent = f"00-{TRACE}-{PARENT}-01"
        answer = api.post(
            "/v1/audits",
            json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"},
            headers={"traceparent": sent},
        )
        assert answer.headers["traceparent"] == sent
        malformed = api.get("/livez", headers={"traceparent": "00-zz"})
        assert "traceparent" not in malformed.headers
    assert fleet.rows("SELECT traceparent FROM runs") == [(sent,)]
