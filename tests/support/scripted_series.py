"""A service of one training run's series, as its client sees it: started and killed as a process of its own, with a
memory that outlives it.

``python -m tests.support.scripted_series PORT FOLDER``: ``FOLDER/series.json`` holds every series that was made and its
members, each measured as soon as it is added. What a test may put there: ``status`` (of every document), ``holds`` (no
member is measured), ``refuses`` (a part of the names of models that are refused), ``dies`` ("create" or "members": the
process ends when that was stored, before it answers, once), ``hangs`` (nothing is answered). ``seen`` has a line for
every request.
"""

import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.places import ROOT
from tests.support.waiting import until, within

NLL = 0.01
"""``nll_change`` of a member, for each step."""


class Service(BaseHTTPRequestHandler):
    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

    def _answer(self, body: dict[str, Any]) -> None:
        with (self.folder / "seen").open("a") as seen:
            seen.write(f"{self.command} {self.path} {self.headers.get('Authorization', '-')}\n")
        within(lambda: not (self.folder / "hangs").exists(), timeout=600.0)
        stored = self.folder / "series.json"
        series: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
        _, _, _, *rest = self.path.split("/")
        found: dict[str, Any] = {}
        if not rest:
            key = self.headers.get("Idempotency-Key")
            known = next((name for name, one in series.items() if one["key"] == key), None)
            found = {"id": known or f"series-{len(series) + 1}"}
            series.setdefault(found["id"], {**body, "members": {}, "closed": False, "key": key})
        elif rest[1:] == ["members"]:
            refused = (self.folder / "refuses").read_text() if (self.folder / "refuses").exists() else None
            if refused and any(refused in member["model"] for member in body["members"]):
                self._send(
                    422, {"code": "model_path_refused", "detail": "not below the model roots", "hint": "move it"}
                )
                return
            series[rest[0]]["members"] |= {str(member["step"]): member["model"] for member in body["members"]}
        elif rest[1:] == ["close"]:
            series[rest[0]]["closed"] = True
        else:
            found = self._document(series[rest[0]])
        made = stored.with_suffix(".new")
        made.write_text(json.dumps(series))
        made.replace(stored)
        dying = self.folder / "dies"
        if dying.exists() and dying.read_text() == (rest[1] if rest else "create"):
            dying.unlink()
            os._exit(1)
        self._send(200, found)

    def _document(self, series: dict[str, Any]) -> dict[str, Any]:
        state = "waiting" if (self.folder / "holds").exists() else "measured"
        status = self.folder / "status"
        members = [
            {"step": int(step), "model": model, "state": state, "damage": "none" if state == "measured" else None}
            for step, model in series["members"].items()
        ]
        points = [{"step": m["step"], "value": NLL * m["step"] if state == "measured" else None} for m in members]
        return {
            "schema": "spinal.series/1", "status": status.read_text() if status.exists() else "healthy",
            "reasons": ["nll_change fell"], "members": members, "signals": {"nll_change": {"points": points}},
        }  # fmt: skip

    def _send(self, status: int, found: dict[str, Any]) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status < 400 else "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the requests are in ``seen``."""


class Stage:
    """The service, which comes and goes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def starts(self) -> None:
        command = [sys.executable, "-m", "tests.support.scripted_series", str(self.port), str(self.folder)]
        self.process = subprocess.Popen(command, cwd=ROOT)
        until(self.answers, "the service")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def is_killed(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def does(self, what: str, how: str = "") -> None:
        (self.folder / what).write_text(how)

    def no_longer(self, what: str) -> None:
        (self.folder / what).unlink()

    def seen(self) -> list[str]:
        return (self.folder / "seen").read_text().splitlines() if (self.folder / "seen").exists() else []

    def series(self) -> dict[str, Any]:
        """Every series by its id."""
        stored = self.folder / "series.json"
        found: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
        return found

    def steps(self, series: str = "series-1") -> list[int]:
        return sorted(int(step) for step in self.series().get(series, {}).get("members", {}))


if __name__ == "__main__":
    Service.folder = Path(sys.argv[2])
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Service).serve_forever()
