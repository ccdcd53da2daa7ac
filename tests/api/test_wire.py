"""HEAD and OPTIONS, types of bodies, headers that the contract promises, and what probes and metrics say."""

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from prometheus_client.parser import text_string_to_metric_families

from service.app import bare_app, create_app
from service.database.unit_of_work import Ledger
from service.http.addresses import Reaching
from service.operations import migrate
from service.platform.logs import configure_logs
from service.settings import Settings
from tests.support.hooks import put_webhook
from tests.support.served import application, served

PAIR = {"candidate": "local:dpo-short", "reference": "local:sft", "prompt_set": "hh-harmless-64"}
Drain = Callable[[], int]
CONTRACT = bare_app().openapi()


@pytest.fixture
def values(api: TestClient, drain: Drain, ledger: Ledger, api_settings: Settings) -> dict[str, str]:
    """What the paths of the contract are filled with: of everything there is one."""
    audit = api.post("/v1/audits", json=PAIR).json()
    series = api.post("/v1/series", json={"reference": "local:sft"}).json()
    api.post("/v1/models", json={"name": "acme/base", "reference": "local:sft", "aliases": ["champion"]})
    drain()
    done = api.get(audit["links"]["self"]).json()
    return {
        "audit_id": audit["id"], "series_id": series["id"], "digest": done["candidate_trace"], "alias": "champion",
        "reference": done["reference_trace"], "candidate": done["candidate_trace"], "name": "acme/base", "version": "1",
        "registry": "none-is-set-up",
    } | put_webhook(ledger, api_settings)  # fmt: skip


def paths_of(values: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in CONTRACT["paths"].items():
        own = (
            {"name": "hh-harmless-64"}
            if "prompt-sets" in path
            else {"name": "spinal-default"}
            if "policies" in path
            else {}
        )
        yield path.format(**{**values, **own}), operations


def test_head_is_get_without_a_body(api: TestClient, values: dict[str, str]) -> None:
    asked = [path for path, operations in paths_of(values) if "get" in operations]
    good = 0
    for path in [*asked, "/docs", "/openapi.json", "/v1/audits?limit=1", "/v1/nothing", f"/v1/audits/{'0' * 36}"]:
        for coding in ("gzip", "identity"):
            ours = {"Accept-Encoding": coding, "X-Request-Id": "same"}
            got, head = api.get(path, headers=ours), api.head(path, headers=ours)
            assert (head.status_code, head.content) == (got.status_code, b""), path
            # What is left of the tenant's requests goes on counting from one to the other.
            told, asked_of = ({k: v for k, v in one.headers.items() if k != "ratelimit"} for one in (head, got))
            assert told == asked_of, path
            assert ("ratelimit" in head.headers) == ("ratelimit" in got.headers), path
            if "content-encoding" not in head.headers:
                assert int(head.headers["content-length"]) == len(got.content), path
            good += got.status_code == 200
    assert good >= 2 * (len(asked) - 3)


def test_paths_tell_what_they_can_be_asked(api: TestClient, values: dict[str, str]) -> None:
    for path, operations in paths_of(values):
        methods = {method.upper() for method in operations} | {"OPTIONS"}
        methods |= {"HEAD"} if "GET" in methods else set()
        # Two operations may share a shape: a policy by its digest, and a model of that name.
        answer = api.options(path)
        assert answer.status_code == 204, path
        assert answer.content == b""
        told = answer.headers["Allow"].split(", ")
        assert told == sorted(told)
        assert methods <= set(told), path
        for method in {"PUT", "DELETE", "PATCH", "POST", "GET", "HEAD", "TRACE", "BREW"} - set(told):
            refused = api.request(method, path)
            assert (refused.status_code, refused.headers["Allow"]) == (405, ", ".join(told)), (method, path)
    assert api.options("/v1/models/acme/base").headers["Allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
    assert api.options("/v1/nothing").status_code == 404


def bodied() -> list[tuple[str, str, list[str]]]:
    return [
        (method, path, list(operation["requestBody"]["content"]))
        for path, operations in CONTRACT["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    ]


WRONG_TYPES = [
    None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/json", "json",
    "application/merge-patch+json", "application/vnd.api+json", "application/json; charset=latin-1",
    "application/json; charset=utf-16", "application/jsonx", "*/*", ";",
]  # fmt: skip
RIGHT_TYPES = [
    "application/json",
    "Application/JSON",
    "application/json; charset=UTF-8",
    'application/json;charset="utf-8"',
]


@pytest.mark.parametrize(("method", "path", "listed"), bodied())
def test_a_body_of_another_type_is_refused_as_that(api: TestClient, method: str, path: str, listed: list[str]) -> None:
    asked = path.format_map(
        dict.fromkeys(("audit_id", "series_id", "webhook_id"), "0" * 8 + "-0000-4000-8000-" + "0" * 12)
        | {"name": "n", "alias": "a"}
    )
    assert "application/json" in listed
    assert "415" in CONTRACT["paths"][path][method]["responses"]
    # A policy is decoded by its own reader, which knows UTF-8 alone.
    wrong = [kind for kind in WRONG_TYPES if kind is None or "charset" not in kind or "policies" not in path]
    for kind in wrong:
        headers = {} if kind is None else {"Content-Type": kind}
        answer = api.request(method, asked, content=b'{"a": 1}', headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (415, "media_type_unsupported"), (kind, answer.text)
        assert answer.json()["hint"]
    packed = api.request(method, asked, content=gzip.compress(b"{}"),
                         headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})  # fmt: skip
    assert (packed.status_code, packed.json()["code"]) == (415, "media_type_unsupported")
    for kind in RIGHT_TYPES:
        answer = api.request(method, asked, content=b'{"a": 1}', headers={"Content-Type": kind})
        # Whoever sends an event is found before what it says is read: here is no registry.
        assert answer.status_code == (404 if "integrations" in path else 422), (kind, answer.text)


def test_answers_carry_the_headers_that_the_contract_names(api: TestClient, values: dict[str, str]) -> None:
    told = ("Location", "Link", "ETag", "Retry-After", "WWW-Authenticate", "X-Request-Id")

    def checked(method: str, path: str, address: str, **more: Any) -> Any:
        answer = api.request(method, address, **more)
        named = CONTRACT["paths"][path][method]["responses"][str(answer.status_code)].get("headers", {})
        sent = {name for name in told if name in answer.headers}
        assert sent <= set(named), (path, sent)
        return answer

    fresh = {"candidate": "local:sft", "prompt_set": "hh-harmless-64", "profile": {"max_tokens": 64}}
    queued = checked("post", "/v1/audits", "/v1/audits", json=fresh)
    assert {"Location", "Retry-After"} <= {name.title() for name in queued.headers}
    assert "Location" in checked("post", "/v1/audits", "/v1/audits", json=PAIR).headers
    assert "Link" in checked("get", "/v1/audits", "/v1/audits?limit=1").headers
    waits = checked("get", "/v1/audits/{audit_id}", queued.headers["Location"]).headers
    assert {"etag", "retry-after"} <= set(waits)
    known = {"If-None-Match": waits["ETag"]}
    assert checked("get", "/v1/audits/{audit_id}", queued.headers["Location"], headers=known).status_code == 304
    for path, operations in CONTRACT["paths"].items():
        own = {"name": "hh-harmless-64"} if "prompt-sets" in path else {}
        if "get" in operations and "policies/{" not in path:
            checked("get", path, path.format(**{**values, **own}))
    for path, body in (
        ("/v1/models", {"name": "b", "reference": "local:sft"}),
        ("/v1/series", {"reference": "local:sft"}),
    ):
        assert "Location" in checked("post", path, path, json=body).headers


# probes


@pytest.fixture
def lines(api_settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What the process has logged so far, in lines of JSON."""
    said: list[str] = []

    def so_far() -> list[dict[str, Any]]:
        said.extend(capsys.readouterr().err.splitlines())
        # But for what the client of this test says of its own requests.
        return [json.loads(line) for line in said if line.startswith("{") and '"httpx' not in line]

    yield so_far
    configure_logs(api_settings)


def test_probes_say_nothing_until_they_fail_and_then_once(
    api_settings: Settings, lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chatty = api_settings.model_copy(update={"log_level": "info", "log_format": "json"})
    with TestClient(create_app(chatty), raise_server_exceptions=False) as api:
        before = len(lines())
        for _ in range(3):
            assert (api.get("/livez").status_code, api.head("/readyz").status_code) == (200, 200)
        assert lines()[before:] == []
        api.get("/v1/audits")
        assert [line["event"] for line in lines()[before:]] == ["request"]
        behind = len(lines())
        with monkeypatch.context() as patched:
            patched.setattr(migrate, "current", lambda _: None)
            for _ in range(3):
                assert api.get("/readyz").status_code == 503
        for _ in range(2):
            assert api.get("/readyz").status_code == 200
        told = lines()[behind:]
    assert [line["event"] for line in told] == ["probe fails", "probe succeeds again"]
    assert "migration none" in told[0]["failure"]
    assert told[0]["level"] == "error"


def test_the_migration_is_read_as_the_library_reads_it(ledger: Ledger) -> None:
    from alembic.runtime.migration import MigrationContext

    with ledger.engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == migrate.current(ledger.engine)
    assert migrate.current(ledger.engine) == migrate.head()


def test_probes_make_no_spans(api_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    app = create_app(api_settings.model_copy(update={"root_path": "/spinal"}))
    with TestClient(app) as api:
        for path in ("/livez", "/readyz", "/spinal/readyz"):
            assert api.get(path).status_code == 200
        assert kept.get_finished_spans() == ()
        assert api.get("/spinal/v1/audits").status_code == 200
        assert [span.name for span in kept.get_finished_spans() if span.parent is None] == ["GET /v1/audits"]


# metrics


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (one.name, *sorted(f"{name}={value}" for name, value in one.labels.items() if name != "le")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_the_api_tells_what_it_does_on_a_port_of_its_own(
    api_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = api_settings.model_copy(update={"api_metrics_port": 0})
    ports: list[int] = []
    app = create_app(chosen)
    from service.http import measured

    real = measured.start_http_server

    def noted(*arguments: Any, **more: Any) -> Any:
        server, thread = real(*arguments, **more)
        ports.append(server.server_port)
        return server, thread

    measured.start_http_server = noted
    try:
        with TestClient(app, raise_server_exceptions=False) as api:
            assert api.get("/metrics").status_code == 404, "never beside the routes"
            audit = api.post("/v1/audits", json=PAIR).json()
            api.post("/v1/audits?validate_only=true", json=PAIR)
            api.post("/v1/audits", json={"candidate": "local:nothing"})
            for hostile in ('/v1/audits/x"y%0A', "/v1/<script>", "/v1/traces/" + "f" * 64):
                api.get(hostile)
            api.request("BREW", "/v1/audits")
            api.head(audit["links"]["self"])
            api.get(audit["links"]["self"], params={"wait": 0.1})
            api.get("/livez")
            found = httpx.get(f"http://127.0.0.1:{ports[0]}/metrics").text
    finally:
        measured.start_http_server = real
    told = samples(found)
    assert told["spinal_submissions_total", "outcome=queued"] == 1
    assert told["spinal_submissions_total", "outcome=checked"] == 1
    assert told["spinal_submissions_total", "outcome=refused"] == 1
    requests = {key for key in told if key[0] == "spinal_http_requests_total"}
    routes = {part for key in requests for part in key if part.startswith("route=")}
    assert routes == {
        f"route={route}" for route in ("none", "/v1/audits", "/v1/audits/{audit_id}", "/v1/traces/{digest}")
    }
    assert {part for key in requests for part in key if part.startswith("method=")} == {
        f"method={method}" for method in ("GET", "POST", "HEAD", "other")
    }
    assert told["spinal_http_requests_in_flight",] == told["spinal_http_requests_waiting",] == 0
    assert told["spinal_inspections",] == 0
    assert told["spinal_http_request_seconds_count", "method=GET", "route=/v1/audits/{audit_id}"] >= 1
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{ports[0]}/metrics")


def test_a_taken_port_costs_the_metrics_and_nothing_else(api_settings: Settings) -> None:
    with served(api_settings) as other:
        taken = api_settings.model_copy(update={"api_metrics_port": urlsplit(other).port})
        with TestClient(create_app(taken)) as api:
            assert api.get("/livez").status_code == 200


def test_the_outermost_layer_knows_how_a_request_came(api: TestClient) -> None:
    assert application(api).user_middleware[0].cls is Reaching
    assert logging.getLogger("uvicorn.access").propagate is False
