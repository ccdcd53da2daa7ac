"""The examples of the client's docstrings, against a server that answers them."""

import doctest
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import spinal.client
import spinal.client_models
import spinal.client_policies
import spinal.client_prompts
import spinal.client_results
import spinal.client_series
import spinal.client_webhooks
from spinal import Client
from spinal.analysis.diff import diff_traces
from spinal.client_models import ModelCalls
from spinal.client_policies import PolicyCalls
from spinal.client_prompts import PromptCalls
from spinal.client_results import ResultCalls
from spinal.client_series import SeriesCalls
from spinal.client_webhooks import WebhookCalls
from spinal.policy.series import assess
from spinal.prompts.sets import PromptSet
from tests.support.fabricated import changed_pair

AUDIT_ID = "0199c5f1-0000-7000-8000-000000000001"
PAIR = changed_pair()
AUDIT = {
    "id": AUDIT_ID, "state": "SUCCEEDED", "candidate": "local:dpo-short", "reference": "local:sft", "verdict": "pass",
    "progress": {"phase": "done", "fraction": 1.0, "runs": {}},
}  # fmt: skip
PROMPTS = PromptSet(("How do I reset a password?",), (None,))
SERIES = {
    "id": AUDIT_ID, "state": "OPEN", "reference": "local:sft", "status": "healthy",
    "members": {"waiting": 0, "measured": 5, "total": 5},
}  # fmt: skip
HOOK = {
    "id": AUDIT_ID,
    "url": "https://hooks.example.org/spinal",
    "events": ["audit.*"],
    "generation": 1,
    "enabled": True,
}
DELIVERY = {"id": AUDIT_ID, "type": "webhook.test", "state": "QUEUED", "sent_again": 0}
BASE = {
    "name": "acme/base", "version": "1", "reference": "local:sft", "aliases": {"champion": "1"},
    "description": "the SFT base",
}  # fmt: skip
SECOND = {"name": "acme/base", "version": "2", "reference": "local:dpo-short"}
DIFF = diff_traces(PAIR.reference, PAIR.candidate)
ANSWERS: dict[tuple[str, str], Any] = {
    ("POST", "/v1/audits"): AUDIT | {"state": "QUEUED", "verdict": None},
    ("GET", "/v1/audits"): {"items": [AUDIT], "next": None},
    ("GET", f"/v1/audits/{AUDIT_ID}"): AUDIT,
    ("POST", f"/v1/audits/{AUDIT_ID}/cancel"): AUDIT | {"state": "CANCELLED"},
    ("POST", f"/v1/audits/{AUDIT_ID}/links"): {
        "url": "https://audits.example/r/AQEAAAGi...",
        "expires_at": "2027-01-08T00:00:00Z",
    },
    ("GET", f"/v1/audits/{AUDIT_ID}/scores"): {
        "verdict": {"outcome": "pass"},
        "statements": [{"text": "the preference margin is carried by blocks 1-8"}],
    },
    ("GET", f"/v1/audits/{AUDIT_ID}/report"): "# local:sft → local:dpo-short\n",
    ("GET", f"/v1/audits/{AUDIT_ID}/attestation"): {
        "payloadType": "application/vnd.in-toto+json",
        "payload": "e30=",
        "signatures": [],
    },
    ("GET", f"/v1/traces/{PAIR.reference.digest}"): PAIR.reference.model_dump(mode="json"),
    ("GET", "/v1/traces"): {"items": [{"source": "local:sft"}], "next": None},
    ("GET", f"/v1/diffs/{PAIR.reference.digest}...{PAIR.candidate.digest}"): {"diff": DIFF.model_dump(mode="json")},
    ("POST", "/v1/models"): BASE,
    ("GET", "/v1/models/acme/base"): BASE,
    ("PATCH", "/v1/models/acme/base"): BASE,
    ("DELETE", "/v1/models/acme/base"): "",
    ("POST", "/v1/models/acme/base/versions"): SECOND,
    ("GET", "/v1/models/acme/base/versions"): {"items": [SECOND, BASE], "next": None},
    ("GET", "/v1/models/acme/base/versions/2"): SECOND,
    ("DELETE", "/v1/models/acme/base/versions/2"): "",
    ("PUT", "/v1/models/acme/base/aliases/champion"): SECOND,
    ("DELETE", "/v1/models/acme/base/aliases/champion"): "",
    ("GET", "/v1/models"): {"items": [{"reference": "local:sft"}], "next": None},
    ("POST", "/v1/prompt-sets"): {"count": 1, "name": "mine", "digest": PROMPTS.digest},
    ("GET", "/v1/prompt-sets"): {"items": [{"name": "hh-harmless-512"}], "limits": {"bytes": 1000}},
    ("GET", "/v1/prompt-sets/mine"): {"prompts": [{"prompt": PROMPTS.prompts[0]}]},
    ("POST", "/v1/policies"): {"name": "acme-release/1"},
    ("GET", "/v1/policies"): {"items": [{"name": "spinal-default/2"}, {"name": "acme-release/1"}], "next": None},
    ("GET", "/v1/policies/acme-release/1"): {"document": {"rules": [{"limit": 0.05}]}},
    ("DELETE", "/v1/policies/acme-release/1"): "",
    ("POST", "/v1/webhooks"): HOOK | {"secret": "whsec_shown-once"},
    ("GET", "/v1/webhooks"): {"items": [HOOK], "next": None},
    ("GET", f"/v1/webhooks/{AUDIT_ID}"): HOOK,
    ("PATCH", f"/v1/webhooks/{AUDIT_ID}"): HOOK,
    ("DELETE", f"/v1/webhooks/{AUDIT_ID}"): "",
    ("POST", f"/v1/webhooks/{AUDIT_ID}/rotate"): HOOK | {"secret": "whsec_shown-once", "generation": 2},
    ("POST", f"/v1/webhooks/{AUDIT_ID}/test"): DELIVERY,
    ("GET", f"/v1/webhooks/{AUDIT_ID}/deliveries"): {"items": [DELIVERY | {"state": "SUCCEEDED"}], "next": None},
    ("POST", f"/v1/webhooks/{AUDIT_ID}/deliveries/{AUDIT_ID}/resend"): DELIVERY | {"sent_again": 1},
    ("POST", "/v1/series"): SERIES,
    ("GET", "/v1/series"): {"items": [SERIES], "next": None},
    ("GET", f"/v1/series/{AUDIT_ID}"): SERIES,
    ("POST", f"/v1/series/{AUDIT_ID}/members"): {"items": [{"step": 200, "audit": AUDIT_ID}]},
    ("POST", f"/v1/series/{AUDIT_ID}/close"): SERIES | {"state": "CLOSED"},
    ("POST", f"/v1/series/{AUDIT_ID}/cancel"): SERIES | {"state": "CANCELLED"},
    ("GET", f"/v1/series/{AUDIT_ID}/document"): assess("local:sft", ())
    .model_copy(update={"status": "healthy"})
    .model_dump(mode="json", by_alias=True),
    ("GET", "/readyz"): {},
}


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer("PUT")

    def do_PATCH(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer("PATCH")

    def _answer(self, method: str) -> None:
        found = ANSWERS[method, self.path.partition("?")[0]]
        body = (found if isinstance(found, str) else json.dumps(found)).encode()
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/markdown; charset=utf-8" if isinstance(found, str) else "application/json"
        )
        if isinstance(found, str):
            self.send_header("Cache-Control", "private, immutable")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=serving.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{serving.server_address[1]}"
    serving.shutdown()
    serving.server_close()
    thread.join()


def test_every_example_of_the_client_runs(server: str) -> None:
    public = {
        name
        for part in (Client, ModelCalls, PolicyCalls, PromptCalls, ResultCalls, SeriesCalls, WebhookCalls)
        for name, member in vars(part).items()
        if callable(member) and not name.startswith("_")
    }
    with Client(server, api_key="spk_x") as client:
        given = {
            "load_prompts": lambda _: PROMPTS, "client": client, "server": server, "key": "spk_x", "audit_id": AUDIT_ID,
            "series_id": AUDIT_ID, "webhook_id": AUDIT_ID,
            "reference_digest": PAIR.reference.digest, "candidate_digest": PAIR.candidate.digest,
        }  # fmt: skip
        runner = doctest.DocTestRunner()
        tests = [
            test
            for module in (
                spinal.client,
                spinal.client_models,
                spinal.client_policies,
                spinal.client_prompts,
                spinal.client_results,
                spinal.client_series,
                spinal.client_webhooks,
            )
            for test in doctest.DocTestFinder().find(module, extraglobs=given)
            if test.examples
        ]
        for test in tests:
            runner.run(test)
    assert runner.failures == 0
    assert {test.name.rpartition(".")[2] for test in tests} == (public - {"close"}) | {"Client"}
