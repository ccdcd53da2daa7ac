"""A service of one audit, as its client sees it: started, frozen and killed as a process of its own.

``python -m tests.support.scripted_service PORT FOLDER``: ``FOLDER/state`` holds the audit's state, ``FOLDER/first``
answers that are given before anything else, one a line ("503", "429 1": status and Retry-After), ``FOLDER/seen`` every
request, with its Idempotency-Key.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.waiting import within

AUDIT_ID = "0199c1a2-0000-7000-8000-000000000001"
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


def audit(state: str) -> dict[str, Any]:
    return {
        "id": AUDIT_ID, "state": state, "candidate": "local:new", "reference": "local:old",
        "verdict": "pass" if state == "SUCCEEDED" else None, "verdict_reasons": [], "labels": {}, "results": {},
        "progress": {"phase": "walk", "fraction": 0.5, "runs": {}}, "created_at": "2026-11-01T10:00:00Z",
        "error": {"code": "weights_corrupt", "detail": "cut off"} if state == "FAILED" else None,
        "links": {"self": f"/v1/audits/{AUDIT_ID}", "report": None},
    }  # fmt: skip


class Service(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        with (self.folder / "seen").open("a") as seen:
            seen.write(f"{self.command} {path} {self.headers.get('Idempotency-Key', '-')}\n")
        first = self.folder / "first"
        lines = first.read_text().splitlines() if first.exists() else []
        if lines:
            first.write_text("\n".join(lines[1:]))
            status, _, after = lines[0].partition(" ")
            self._send(int(status), "<html>away", "text/html", {"Retry-After": after} if after else {})
            return
        if path.endswith("/cancel"):
            (self.folder / "state").write_text("CANCELLED")
        within(lambda: self._state() in ENDED, float(query.partition("wait=")[2] or 0))
        if path.endswith("/scores"):
            problem = {"code": "audit_has_no_scores", "detail": "none"}
            self._send(409, json.dumps(problem), "application/problem+json", {})
            return
        made = audit(self._state())
        page = {"items": [made], "next": None}
        listing = self.command == "GET" and path == "/v1/audits"
        self._send(200, json.dumps(page if listing else made), "application/json", {})

    def _state(self) -> str:
        return (self.folder / "state").read_text().strip()

    def _send(self, status: int, text: str, media_type: str, headers: dict[str, str]) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": media_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are in ``seen``."""


if __name__ == "__main__":
    Service.folder = Path(sys.argv[2])
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
