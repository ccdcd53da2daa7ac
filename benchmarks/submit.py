"""Accepting audits while the broker is away: ``python -m benchmarks.submit --rate 20 --seconds 60``.

Requests are sent on a fixed schedule (a slow answer delays no later request, and a request's time counts from when it
was due), against a real API on a durable Postgres: with the broker well, killed, and frozen. When it is back, the time
until every audit of the phase has ended is taken. An engine double stands in for the models; the service runs at its
default timings. Exit 1 when a request failed, p99 reached 100 ms or an audit took longer than 70 s after the return.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.chaos import Bench, build, percentile
from service.embedded.valkey import ValkeyServer
from service.settings import Settings

P99_LIMIT_MS = 100.0
RETURN_LIMIT_S = 70.0
RUNS_PER_SECOND = 2
"""So many of the audits of a second need runs of their own; the others share them, as audits of one release do."""


def kill(valkey: ValkeyServer) -> None:
    valkey.kill()


def well(_valkey: ValkeyServer) -> None:
    pass


PHASES: dict[str, tuple[Callable[[ValkeyServer], None], Callable[[ValkeyServer], None]]] = {
    "broker well": (well, well),
    "broker killed": (kill, ValkeyServer.start),
    "broker frozen": (ValkeyServer.freeze, ValkeyServer.thaw),
}


def send_all(bench: Bench, phase: int, rate: float, seconds: float) -> tuple[list[float], list[str]]:
    """Milliseconds of every request from when it was due, and what went wrong."""
    took: list[float] = []
    wrong: list[str] = []
    started = time.perf_counter() + 0.5

    def send(number: int) -> None:
        due = started + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        second = int(number / rate)
        own = number % int(rate) < RUNS_PER_SECOND
        knob = 8 + phase * 10_000 + second * RUNS_PER_SECOND + (number % RUNS_PER_SECOND if own else 0)
        body = {"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64", "profile": {"max_tokens": knob}}
        try:
            answer = client.post("/v1/audits", json=body, headers={"Idempotency-Key": f"{phase}-{number}"})
            if answer.status_code not in (201, 202):
                wrong.append(f"{answer.status_code} {answer.text[:120]}")
        except httpx.HTTPError as error:
            wrong.append(type(error).__name__)
        took.append((time.perf_counter() - due) * 1000.0)

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    with httpx.Client(base_url=bench.url, timeout=30.0, limits=limits) as client, ThreadPoolExecutor(32) as pool:
        list(pool.map(send, range(int(rate * seconds))))
    return took, wrong


def wait_for_the_end(bench: Bench, limit_s: float) -> float:
    started = time.monotonic()
    query = "SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING')"
    while bench.fleet.rows(query) != [(0,)] and time.monotonic() - started < limit_s:
        time.sleep(0.2)
    return time.monotonic() - started


def measure_phase(bench: Bench, index: int, name: str, rate: float, seconds: float) -> dict[str, Any]:
    harm, heal = PHASES[name]
    harm(bench.fleet.valkey)
    took, wrong = send_all(bench, index, rate, seconds)
    heal(bench.fleet.valkey)
    until_ended = wait_for_the_end(bench, 3 * RETURN_LIMIT_S)
    return {
        "phase": name,
        "requests": len(took),
        "errors": len(wrong),
        "p50_ms": round(percentile(took, 0.5), 1),
        "p99_ms": round(percentile(took, 0.99), 1),
        "most_ms": round(max(took), 1),
        "all_ended_after_s": round(until_ended, 1),
        "first_error": wrong[0] if wrong else None,
    }


def run(arguments: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="spinal-submit-")))
        bench = build(stack, folder, lease_s=Settings.model_fields["lease_s"].default, seed=0)
        (bench.fleet.double / "pace").unlink()
        bench.start_api()
        bench.fleet.start_dispatcher()
        bench.fleet.start_worker(concurrency=2)
        while True:
            try:
                if httpx.get(f"{bench.url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        # The first requests import and connect; they are not what is asked here.
        send_all(bench, len(PHASES), arguments.rate, 3.0)
        wait_for_the_end(bench, RETURN_LIMIT_S)
        found = []
        for index, name in enumerate(PHASES):
            found.append(measure_phase(bench, index, name, arguments.rate, arguments.seconds))
            console.print(json.dumps(found[-1]), highlight=False)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.submit", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each phase; the broker is away as long")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    found = run(arguments, console)
    table = Table("", "requests", "errors", "p50 ms", "p99 ms", "most ms", "all ended after, s")
    for row in found:
        table.add_row(*(str(row[name]) for name in row if name != "first_error"))
    console.print(table)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")
    missed = [
        row
        for row in found
        if row["errors"] or row["p99_ms"] >= P99_LIMIT_MS or row["all_ended_after_s"] > RETURN_LIMIT_S
    ]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
