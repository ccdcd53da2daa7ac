"""Accepting audits while the broker or the database is away: ``python -m benchmarks.submit --rate 20 --seconds 60``.

Requests are sent on a fixed schedule (a slow answer delays no later request, and a request's time counts from when it
was due), against a real API on a durable Postgres: with the broker well, killed, and frozen. When it is back, the time
until every audit of the phase has ended is taken. In a last phase Postgres is stopped in the middle and started again:
every answer has to be an acceptance or a 503 that says when to come back, callers do, and the time is taken until work
goes on and until all has ended. Every audit is a pair; two of a second need runs of their own (one all three, one a
comparison), the others share them, as audits of one release do. An engine double stands in for the models; the service
runs at its default timings. Exit 1 when a request failed, p99 reached 100 ms, an audit took longer than 70 s after the
broker's return, or work longer than 30 s after the database's.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.chaos import Bench, build, percentile
from devstack.valkey import ValkeyServer
from service.operations.invariants import violations
from service.settings import Settings
from spinal.errors import DatabaseUnavailable

P99_LIMIT_MS = 100.0
RETURN_LIMIT_S = 70.0
RESUME_LIMIT_S = 30.0
DATABASE_AWAY_S = 5.0


def kill(valkey: ValkeyServer) -> None:
    valkey.kill()


def well(_valkey: ValkeyServer) -> None:
    pass


PHASES: dict[str, tuple[Callable[[ValkeyServer], None], Callable[[ValkeyServer], None]]] = {
    "broker well": (well, well),
    "broker killed": (kill, ValkeyServer.start),
    "broker frozen": (ValkeyServer.freeze, ValkeyServer.thaw),
}


def body_of(phase: int, number: int, rate: float) -> dict[str, Any]:
    """The first audit of a second needs three runs of its own, the second a comparison; the others share those."""
    second, place = divmod(number, int(rate))
    return {
        "candidate": "local:dpo-short",
        "reference": "local:sft",
        "prompt_set": "hh-harmless-64",
        "profile": {"max_tokens": 8 + phase * 10_000 + second, "seed": min(place, 1), "bootstrap_draws": 200},
    }


def send_all(
    bench: Bench, phase: int, rate: float, seconds: float, *, come_back: bool = False
) -> tuple[list[float], list[str], int]:
    """Milliseconds of every request from when it was due, what went wrong, and how many answers were 503. With
    ``come_back`` a caller who is told to does so."""
    took: list[float] = []
    wrong: list[str] = []
    turned_away: list[int] = []
    started = time.perf_counter() + 0.5

    def send(number: int) -> None:
        due = started + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        while True:
            try:
                answer = client.post(
                    "/v1/audits", json=body_of(phase, number, rate), headers={"Idempotency-Key": f"{phase}-{number}"}
                )
            except httpx.HTTPError as error:
                wrong.append(type(error).__name__)
                break
            told = answer.headers.get("Retry-After", "")
            problem = answer.headers["Content-Type"] == "application/problem+json"
            if come_back and answer.status_code == 503 and told.isdigit() and problem:
                turned_away.append(number)
                time.sleep(min(float(told), 2.0))
                continue
            if answer.status_code not in (201, 202):
                wrong.append(f"{answer.status_code} {answer.text[:120]}")
            break
        took.append((time.perf_counter() - due) * 1000.0)

    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    with httpx.Client(base_url=bench.url, timeout=30.0, limits=limits) as client, ThreadPoolExecutor(64) as pool:
        list(pool.map(send, range(int(rate * seconds))))
    return took, wrong, len(turned_away)


def wait_for_the_end(bench: Bench, limit_s: float) -> float:
    started = time.monotonic()
    query = "SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING')"
    while bench.fleet.rows(query) != [(0,)] and time.monotonic() - started < limit_s:
        time.sleep(0.2)
    return time.monotonic() - started


def measure_phase(bench: Bench, index: int, name: str, rate: float, seconds: float) -> dict[str, Any]:
    harm, heal = PHASES[name]
    harm(bench.fleet.valkey)
    took, wrong, _ = send_all(bench, index, rate, seconds)
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


def restart_database(bench: Bench, index: int, rate: float, seconds: float) -> dict[str, Any]:
    """Postgres goes away in the middle of the load; how long until a run that waited then is taken up?"""
    resumed: list[float] = []

    def harm() -> None:
        time.sleep(seconds / 3)
        bench.postgres.stop()
        time.sleep(DATABASE_AWAY_S)
        bench.postgres.start()
        back = time.monotonic()
        succeeded = "SELECT count(*) FROM runs WHERE state = 'SUCCEEDED' AND finished_at > pg_postmaster_start_time()"
        while time.monotonic() - back < 3 * RESUME_LIMIT_S:
            with suppress(DatabaseUnavailable):
                if bench.fleet.rows(succeeded) != [(0,)]:
                    resumed.append(time.monotonic() - back)
                    return
            time.sleep(0.1)

    # The server belongs to this thread: one started from another would end with that.
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(send_all, bench, index, rate, seconds, come_back=True)
        harm()
        took, wrong, turned_away = load.result()
    until_ended = wait_for_the_end(bench, 3 * RETURN_LIMIT_S)
    return {
        "phase": f"database away for {DATABASE_AWAY_S:g} s",
        "requests": len(took),
        "answers 503": turned_away,
        "errors": len(wrong),
        "work_goes_on_after_s": round(resumed[0], 1) if resumed else None,
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
        found.append(restart_database(bench, len(PHASES) + 1, arguments.rate, arguments.seconds))
        with bench.fleet.ledger.read() as session:
            broken = violations(session)
        if broken:
            found[-1]["errors"] += 1
            found[-1]["first_error"] = f"invariants violated: {broken}"
        return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.submit", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each phase; the broker is away as long")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    *broker, database = run(arguments, console)
    table = Table("", "requests", "errors", "p50 ms", "p99 ms", "most ms", "all ended after, s")
    for row in broker:
        table.add_row(*(str(row[name]) for name in row if name != "first_error"))
    other = Table("", "requests", "answers 503", "errors", "work goes on after, s", "all ended after, s")
    other.add_row(*(str(database[name]) for name in database if name != "first_error"))
    console.print(table, other)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([*broker, database], indent=2) + "\n")
    missed = [
        row
        for row in broker
        if row["errors"] or row["p99_ms"] >= P99_LIMIT_MS or row["all_ended_after_s"] > RETURN_LIMIT_S
    ]
    resumed = database["work_goes_on_after_s"]
    if database["errors"] or not database["answers 503"] or resumed is None or resumed > RESUME_LIMIT_S:
        missed.append(database)
    for row in missed:
        console.print(f"missed: {json.dumps(row)}", highlight=False)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
