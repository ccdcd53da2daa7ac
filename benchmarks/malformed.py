"""Malformed checkpoint folders by the thousand: ``python -m benchmarks.malformed --folders 1000``.

Each folder is one of three sound ones (weights in one file, in shards, an adapter) with one to three things wrong, from
a seed: bytes, JSON, safetensors headers, file kinds. All are submitted to a real API; what it accepts is carried out by
a worker with the real engine. Meanwhile ``/livez`` is asked ten times a second. Exit 1 when an answer was 5xx, an
inspection went over its bound or ``/livez`` took a second, when a run was tried twice or ended with an error that is
ours, or when the ledger's invariants do not hold.
"""

import argparse
import json
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.chaos import Bench, build, percentile
from service.operations.invariants import violations
from service.settings import Settings
from tests.support.malformed import make_sound, malform

LIVE_LIMIT_S = 1.0
OURS = ("internal_error", "attempts_exhausted", "lease_lost", "run_stalled")
"""Codes of errors that no file of a caller should come to."""
PROFILE = {"max_tokens": 8, "lens_positions": 1}


class Pulse:
    """Asks ``/livez`` until it is told to stop."""

    def __init__(self, url: str) -> None:
        self.took: list[float] = []
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        with httpx.Client(timeout=30.0) as client:
            while not self._stop.wait(0.1):
                began = time.perf_counter()
                client.get(f"{self._url}/livez").raise_for_status()
                self.took.append(time.perf_counter() - began)


def submit_all(bench: Bench, root: Path, seeds: range) -> tuple[list[float], Counter[str], list[str]]:
    """Seconds of every answer, answers by code, and those that must not be."""
    took: list[float] = []
    codes: Counter[str] = Counter()
    wrong: list[str] = []
    bound = Settings.model_fields["inspect_seconds"].default
    with httpx.Client(base_url=bench.url, timeout=10.0 * bound) as client:
        for seed in seeds:
            done = malform(root, f"m{seed}", seed)
            began = time.perf_counter()
            body = {"candidate": f"local:m{seed}", "prompt_set": "hh-harmless-64", "profile": PROFILE}
            answer = client.post("/v1/audits", json=body)
            took.append(time.perf_counter() - began)
            code = "accepted" if answer.status_code in (201, 202) else str(answer.json()["code"])
            codes[code] += 1
            if answer.status_code >= 500 or code == "inspection_exceeded" or took[-1] > bound:
                wrong.append(f"seed {seed} ({done}): {answer.status_code} {code} after {took[-1]:.1f} s")
    return took, codes, wrong


def until_ready(bench: Bench) -> None:
    while True:
        try:
            if httpx.get(f"{bench.url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)


def wait_for_the_end(bench: Bench, limit_s: float) -> None:
    query = "SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING')"
    deadline = time.monotonic() + limit_s
    while bench.fleet.rows(query) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.5)


def judge_runs(bench: Bench) -> tuple[Counter[str], list[str]]:
    """How the accepted audits ended, and what must not be."""
    ended: Counter[str] = Counter()
    wrong: list[str] = []
    for state, code, candidate, error in bench.fleet.rows(
        "SELECT state, error->>'code', candidate, error->>'detail' FROM audits"
    ):
        ended[code or str(state).lower()] += 1
        if code in OURS or state not in ("SUCCEEDED", "FAILED"):
            wrong.append(f"{candidate}: {state} {code} {error}")
    for run, attempts in bench.fleet.rows("SELECT run_id, count(*) FROM run_attempts GROUP BY 1 HAVING count(*) > 1"):
        wrong.append(f"run {run} had {attempts} attempts")
    with bench.fleet.ledger.read() as session:
        wrong += [f"invariant violated: {broken}" for broken in violations(session)]
    return ended, wrong


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="spinal-malformed-")))
        root = folder / "models"
        root.mkdir()
        make_sound(root)
        bench = build(stack, folder, lease_s=Settings.model_fields["lease_s"].default, seed=arguments.seed)
        bench.fleet.environment |= {"SPINAL_MODEL_ROOTS": str(root), "SPINAL_ENGINE": "spinal.engine.api"}
        bench.start_api()
        bench.fleet.start_dispatcher()
        bench.fleet.start_worker(concurrency=arguments.workers)
        until_ready(bench)
        with Pulse(bench.url) as pulse:
            took, codes, wrong = submit_all(bench, root, range(arguments.seed, arguments.seed + arguments.folders))
            wait_for_the_end(bench, arguments.minutes * 60)
        ended, failed = judge_runs(bench)
        if max(pulse.took) > LIVE_LIMIT_S:
            wrong.append(f"/livez took {max(pulse.took):.2f} s")
        return {
            "folders": len(took),
            "answers": dict(codes.most_common()),
            "median_ms": round(percentile(took, 0.5) * 1000, 1),
            "p99_ms": round(percentile(took, 0.99) * 1000, 1),
            "most_ms": round(max(took) * 1000, 1),
            "livez_most_ms": round(max(pulse.took) * 1000, 1),
            "accepted_ended": dict(ended.most_common()),
            "wrong": wrong + failed,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.malformed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first folder; each has its own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long accepted audits may take to end")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    found = run(arguments)
    table = Table("", "")
    for name, value in found.items():
        table.add_row(name, json.dumps(value) if isinstance(value, dict) else str(value))
    console.print(table)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
