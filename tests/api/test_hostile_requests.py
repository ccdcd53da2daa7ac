"""Requests made to break a server: thousands of them over every operation of the contract, and none is answered 5xx."""

import base64
import json
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.app import bare_app, create_app
from service.database.unit_of_work import Ledger
from service.settings import Settings

SEED = 15
TRIES = 80
"""Requests for each operation: each bad value meets each place in some of them."""
Answer = tuple[int, dict[str, str], bytes]

TEXTS = (
    "", " ", "x", "\0", "a\0b", "\ud800", "\udfff\ud800", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\x7f", "\u202egpj.exe",
    "\u2028", "\ufeff", "\U000e0041", "\U0010ffff", "é" * 300, "x" * 5000, "../" * 60, "/etc/passwd", "%00", "%ff", "%",
    "%ud800", "{}", "[[", "'; DROP TABLE audits; --", "\\", "\\u0000", "$(id)", "local:", "local:sft", "local:\ud800",
    "local:sft/../sft", "local:" + "a/" * 400, "hf:\0", "1e999", "NaN", "-0", "9" * 5000, "٣", "true", "null",
    "2026-01-01T00:00:00+01:02:03.000004", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-02-30",
    "0" * 64, "f" * 64, "00000000-0000-0000-0000-000000000000", "QUEUED", "pass", "a:b", ":", "a:\0", "k" * 65 + ":v",
)  # fmt: skip
NUMBERS = ("0", "-1", "1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "-0.0", "9007199254740993",
           "9" * 400, "9" * 5000, "1e-400", "0x10", "01", "1_000", "2147483648")  # fmt: skip
CURSORS = (
    '["\\ud800"]', '["\\ud800","\\ud800"]', '["2026-01-01T00:00:00+00:00","\\ud800"]', '["\\u0000"]', '["\\u0000","a"]',
    '["2026-01-01T00:00:00+01:02:03.000004","00000000-0000-0000-0000-000000000000"]', '["a"]', '["a","b"]', "[1]", "[]",
    '["0001-01-01T00:00:00+23:59","00000000-0000-0000-0000-000000000000"]', '{"a":1}', "NaN", "[" * 300, "[null,null]",
    '["9999-12-31T23:59:59.999999-23:59","00000000-0000-0000-0000-000000000000"]', '["x","{0}"]', '["","\\ufffe"]',
    '["2026-01-01T00:00:00+00:00","urn:uuid:00000000000000000000000000000000"]', '["' + "x" * 300 + '"]', "1" * 380,
)  # fmt: skip


@pytest.fixture(scope="module")
def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, operation) of the contract."""
    paths = bare_app().openapi()["paths"]
    return [(method.upper(), path, found) for path, methods in paths.items() for method, found in methods.items()]


class Hostile:
    """A source of requests: well-formed ones with something bad in few of their places, so that it gets past the checks
    of the others. What is drawn follows from the seed alone."""

    def __init__(self, seed: str, schemas: dict[str, Any], good: dict[str, str]) -> None:
        self.random = random.Random(seed)
        self._schemas, self._good = schemas, good
        self._bad_share = 0.0

    def request(self, path: str, operation: dict[str, Any]) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]:
        """(raw path, query, headers, body)."""
        self._bad_share = self.random.choice((0.02, 0.1, 0.5))
        parameters = operation.get("parameters", [])
        for parameter in parameters:
            if parameter["in"] == "path":
                value = self._text() if self._spoilt() else self._good.get(parameter["name"], "0" * 64)
                path = path.replace(f"{{{parameter['name']}}}", _escaped(value) or "%20")
        body = self._body(operation) if "requestBody" in operation else b""
        return path.encode(), self._query(parameters), self._headers(parameters), body

    def _spoilt(self) -> bool:
        return self.random.random() < self._bad_share

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _text(self) -> str:
        return self.random.choice(TEXTS)

    def _headers(self, parameters: list[dict[str, Any]]) -> list[tuple[bytes, bytes]]:
        hosts = (b"[", b"a:99999999", b"\xff", b"[::1", b"evil.example/../x", b"")
        headers = [(b"host", self.random.choice(hosts) if self._spoilt() else b"test")]
        declared = [parameter["name"].lower().encode() for parameter in parameters if parameter["in"] == "header"]
        for name in declared:
            if self._chance(0.5):
                headers.append((name, self._raw() if self._spoilt() else b"k%d" % self.random.randrange(3)))
        for name in (b"x-request-id", b"traceparent", b"accept-encoding", b"authorization", b"cookie", b"range"):
            if self._spoilt():
                headers.append((name, self._raw()))
        return [*headers, (b"content-type", self._raw() if self._spoilt() else b"application/json")]

    def _raw(self) -> bytes:
        """A header as a client may send it."""
        return self._text().encode("utf-8", "surrogatepass") if self._chance(0.7) else self.random.randbytes(20)

    def _query(self, parameters: list[dict[str, Any]]) -> bytes:
        if self._spoilt() and self._chance(0.3):
            return self.random.randbytes(12)
        parts = []
        for parameter in parameters:
            if parameter["in"] == "query" and self._chance(0.3):
                name, schema = parameter["name"], parameter["schema"]
                if name == "cursor":
                    value = self._cursor()
                elif self._spoilt():
                    value = self.random.choice((self._text(), self.random.choice(NUMBERS)))
                else:
                    value = self._good.get(name) or self._json(schema).strip('"')
                parts.append(f"{name}={_escaped(str(value))}")
        return "&".join(parts).encode()

    def _cursor(self) -> str:
        made = base64.urlsafe_b64encode(self.random.choice(CURSORS).encode("utf-8", "surrogatepass")).decode()
        return made.rstrip("=") + (self.random.choice(("=", "é", "\0", "%", "A")) if self._spoilt() else "")

    def _body(self, operation: dict[str, Any]) -> bytes:
        if self._chance(0.05):
            depth = self.random.choice((50, 400, 900, 1100, 60_000))
            opened, closed = self.random.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"candidate":', b"}")))
            return opened * depth + b"1" + closed * depth
        if self._chance(0.05):
            return self.random.choice((b"", b"\xff\xfe{\0}\0", b"\0", b"{}{", b"\xef\xbb\xbf{}", b"nul", b'"\\ud800"'))
        text = self._json(operation["requestBody"]["content"]["application/json"]["schema"])
        codec = self.random.choice(("utf-16", "utf-32", "latin-1")) if self._spoilt() else "utf-8"
        return text.encode(codec, "replace" if codec == "latin-1" else "surrogatepass")

    def _json(self, schema: dict[str, Any], name: str = "") -> str:
        """JSON that fits ``schema``, but for what is spoilt."""
        while "$ref" in schema:
            schema = self._schemas[schema["$ref"].rpartition("/")[2]]
        if self._spoilt():
            return self._bad()
        if name in self._good:
            return json.dumps(self._good[name])
        if "anyOf" in schema:
            return self._json(self.random.choice(schema["anyOf"]))
        if "enum" in schema or "const" in schema:
            return json.dumps(self.random.choice(schema.get("enum", [schema.get("const")])))
        match schema.get("type"):
            case "object":
                return self._object(schema)
            case "array":
                items = [self._json(schema.get("items", {})) for _ in range(self.random.choice((1, 3)))]
                return f"[{','.join(items)}]"
            case "integer" | "number":
                least = schema.get("minimum", schema.get("exclusiveMinimum", 0))
                return json.dumps(schema.get("default", least))
            case "boolean":
                return self.random.choice(("true", "false"))
            case "string":
                kind = {"date-time": "2026-01-01T00:00:00Z"}.get(schema.get("format", ""), "local:sft")
                return json.dumps(schema.get("default", kind))
        return "null"

    def _object(self, schema: dict[str, Any]) -> str:
        wanted = [
            (name, self._json(member, name))
            for name, member in schema.get("properties", {}).items()
            if name in schema.get("required", ()) or self._chance(0.3)
        ]
        if self._spoilt():
            wanted.append((self._text(), self._bad()))
        if schema.get("additionalProperties"):
            wanted.append(("key", json.dumps(self._text())))
        return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in wanted) + "}"

    def _bad(self) -> str:
        return self.random.choice((
            json.dumps(self._text()), json.dumps(self._text(), ensure_ascii=False), self.random.choice(NUMBERS), "null",
            "true", "[]", "{}", '{"\\ud800":"\\ud800"}', '{"a":"\\u0000"}', "[" * 200 + "]" * 200,
            '{"a":' * 200 + "1" + "}" * 200,
        ))  # fmt: skip


def _escaped(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


def ask(
    client: TestClient, method: str, path: bytes, query: bytes = b"", headers: Any = (), body: bytes = b""
) -> Answer:
    """Send a request as it is, past any client's notion of what may be sent."""
    assert client.portal is not None
    sent = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path.decode()), "raw_path": path, "query_string": query, "headers": list(headers),
        "client": ("test", 1), "server": ("test", 80), "root_path": "",
    }  # fmt: skip
    received: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        received.append(message)

    client.portal.call(client.app, sent, receive, send)
    names = {name.decode().lower(): value.decode("latin-1") for name, value in received[0]["headers"]}
    return received[0]["status"], names, b"".join(message.get("body", b"") for message in received[1:])


@pytest.fixture
def patient(api_settings: Settings) -> Iterator[TestClient]:
    """An API that nobody waits for."""
    with TestClient(create_app(api_settings.model_copy(update={"max_wait_s": 0.0}))) as client:
        yield client


def test_no_hostile_request_is_answered_5xx(
    patient: TestClient, operations: list[tuple[str, str, dict[str, Any]]], ledger: Ledger
) -> None:
    schemas = bare_app().openapi()["components"]["schemas"]
    made = patient.post("/v1/audits", json={"candidate": "local:sft", "prompt_set": "hh-harmless-64"}).json()
    patient.post("/v1/models", json={"name": "known", "reference": "local:sft"})
    series = patient.post("/v1/series", json={"reference": "local:sft", "prompt_set": "hh-harmless-64"}).json()
    good = {
        "audit_id": made["id"],
        "series_id": series["id"],
        "folder": "local:sft",
        "series": series["id"],
        "prompt_set": "hh-harmless-64",
        "control": "local:sft",
        "label": "a:b",
    }
    failed, answered = [], Counter[int]()
    for method, path, operation in operations:
        source = Hostile(f"{SEED} {method} {path}", schemas, good)
        for _ in range(TRIES):
            request = source.request(path, operation)
            status, headers, body = ask(patient, method, *request)
            answered[status] += 1
            if status >= 500:
                failed.append((method, *request, body))
            elif status >= 400:
                assert headers["content-type"] == "application/problem+json", (request, body)
                assert headers["x-request-id"] in json.loads(body)["instance"]
                assert body.decode().isprintable(), (request, body)
    assert not failed, [tuple(str(part)[:300] for part in one) for one in failed[:10]]
    assert {200, 201, 202, 404, 422} <= set(answered), "the requests get as far as answers of every kind"


def test_no_hostile_key_is_answered_5xx(api_settings: Settings) -> None:
    settings = api_settings.model_copy(update={"auth": "required", "key_pepper": SecretStr("pepper")})
    texts = (*(text.encode("utf-8", "surrogatepass") for text in TEXTS), b"\xff\xb2")
    starts = (b"", b"Bearer ", b"Bearer spk_", b"Bearer spk_a_", b"Bearer spk_\xb2_")
    keys = [start + text for start in starts for text in texts]
    body = b'{"name":"m","reference":"local:sft"}'
    with TestClient(create_app(settings)) as client:
        for key in keys:
            for method in ("GET", "POST"):
                headers = [(b"authorization", key), (b"content-type", b"application/json")]
                status, answered, _ = ask(client, method, b"/v1/models", b"", headers, body)
                assert (status, answered["content-type"]) == (401, "application/problem+json"), key
