"""The long run: thousands of audits on real processes, real Postgres and real Redis protocol, under random faults.

``python -m benchmarks.chaos --runs 2000 --minutes 40 --seed 1`` prints what was done to the service and what became of
every audit it had acknowledged. Timings of the service are its defaults (``--lease`` shortens the lease); an engine
double stands in for the models. Exit 1 when anything was lost, doubled or stuck, an invariant does not hold, recovery
p99 exceeds 60 s, or (with 2,000 runs or more) fewer than 200 writes of zombies were there to be refused.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import httpx
from kombu import Connection
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from devstack.postgres import PostgresServer
from devstack.processes import HOST, as_unprivileged, free_port
from devstack.valkey import ValkeyServer
from service.database.unit_of_work import Ledger
from service.operations.invariants import violations
from service.operations.migrate import upgrade
from service.settings import Settings
from spinal.errors import DatabaseUnavailable
from tests.support.fleet import Fleet, fleet_environment
from tests.support.places import EXAMPLES

GROUPS, CHILDREN = 10, 2
OPEN_AUDITS = 24
PACE_S = 4.0
"""The most seconds an engine call takes."""
QUIET_LIMIT_S = 420.0
"""After the last fault every audit must have ended within this time."""
SAY_EVERY_S = 30.0
RECOVERY_P99_S = 60.0
LONG_RUN, ZOMBIE_WRITES = 2000, 200
"""A run of so many audits has to have met so many zombies."""


@dataclass
class Bench:
    """The service under test, what was asked of it and what was done to it."""

    fleet: Fleet
    postgres: PostgresServer
    api_port: int
    chance: random.Random
    lease_s: float
    faults: Counter[str] = field(default_factory=Counter)
    planned: set[str] = field(default_factory=set)
    """Idempotency-Keys of everything that is asked for; each has to be acknowledged."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Audit id -> Idempotency-Key."""
    cancelled: set[str] = field(default_factory=set)
    """Audits that were asked to be cancelled."""
    obeyed: set[str] = field(default_factory=set)
    """Audits whose cancelling was acknowledged as done."""
    unexpected: list[str] = field(default_factory=list)
    """Answers other than accepted or told to come back."""
    frozen: dict[int, float] = field(default_factory=dict)
    """Frozen process -> when it wakes."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.api_port}"

    def start_api(self) -> None:
        self.fleet.start(
            "api", "-m", "uvicorn", "service.app:create_app", "--factory", "--no-access-log", "--host", HOST,
            "--port", str(self.api_port), "--log-level", "error", SPINAL_LOG_LEVEL="error",
        )  # fmt: skip

    def start_group(self, index: int) -> None:
        self.fleet.start_worker(f"group{index}", concurrency=CHILDREN)


# --- load --------------------------------------------------------------------------------------------


def submit_on(bench: Bench, runs: int, seconds: float) -> None:
    """Submit ``runs`` audits (each needs a run of its own), evenly over the time; a request is repeated until it is
    acknowledged."""
    started = time.monotonic()
    for number in range(1, runs + 1):
        while True:
            due = started + seconds * number / runs
            with suppress(DatabaseUnavailable):
                [(waiting,)] = bench.fleet.rows("SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING')")
                if time.monotonic() >= due and waiting < OPEN_AUDITS:
                    break
            time.sleep(0.1)
        _submit_one(bench, number)


def _submit_one(bench: Bench, number: int) -> None:
    body: dict[str, Any] = {"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64"}
    if number % 3 == 0:
        body |= {"reference": "local:sft", "profile": {"seed": number, "bootstrap_draws": 200}}
    else:
        # A knob of the measurement: a specification of its own, thus a run of its own.
        body |= {"profile": {"max_tokens": 8 + number}}
    key = uuid4().hex
    senders = [threading.Thread(target=_post, args=(bench, body, key)) for _ in range(2 if number % 10 == 0 else 1)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if number % 40 == 0:
        _cancel(bench, key)
        # Asked for again at once: what was given up may still be at work, and what is shared is shared with others.
        _post(bench, body, uuid4().hex)


def _post(bench: Bench, body: dict[str, Any], key: str) -> None:
    bench.planned.add(key)
    while True:
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{bench.url}/v1/audits", json=body, headers={"Idempotency-Key": key}, timeout=30.0)
            if answer.status_code in (201, 202):
                bench.acknowledged[answer.json()["id"]] = key
                return
            told = answer.headers.get("Retry-After") and answer.headers["Content-Type"] == "application/problem+json"
            if answer.status_code not in (409, 503) or not told:
                bench.unexpected.append(f"{answer.status_code} {answer.text[:300]}")
                return
        time.sleep(0.3)


def _cancel(bench: Bench, key: str) -> None:
    for audit in [audit for audit, known in list(bench.acknowledged.items()) if known == key]:
        # Before the request: it may be carried out although its answer gets lost.
        bench.cancelled.add(audit)
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{bench.url}/v1/audits/{audit}/cancel", timeout=30.0)
            if answer.status_code == 200 and answer.json()["state"] == "CANCELLED":
                bench.obeyed.add(audit)


# --- faults ------------------------------------------------------------------------------------------


def _busy_children(bench: Bench) -> list[int]:
    """Processes in an engine call that are alive and awake."""
    busy = [int(path.name.removeprefix("busy-")) for path in bench.fleet.double.glob("busy-*")]
    return sorted(pid for pid in busy if pid not in bench.frozen and _is_worker(pid))


def _is_worker(pid: int) -> bool:
    """Whether the process lives and is a worker's: a killed one leaves its mark, and its number may be used again."""
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _signal_one(bench: Bench, found: list[int], number: int) -> int | None:
    """Send the signal to one of ``found``; None when there was nobody to get it."""
    if found:
        pid = bench.chance.choice(found)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return pid
    return None


def kill_child(bench: Bench) -> bool:
    return _signal_one(bench, _busy_children(bench), signal.SIGKILL) is not None


def freeze_child(bench: Bench) -> bool:
    """For longer than its lease: its run is taken away, and it wakes as a zombie that wants to write."""
    if len(bench.frozen) >= GROUPS * CHILDREN * 3 // 5:
        return False
    pid = _signal_one(bench, _busy_children(bench), signal.SIGSTOP)
    if pid is None:
        return False
    bench.frozen[pid] = time.monotonic() + bench.lease_s * bench.chance.uniform(1.1, 1.4)
    return True


def wake(bench: Bench, *, everything: bool = False) -> None:
    for pid, when in list(bench.frozen.items()):
        if everything or time.monotonic() > when:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            del bench.frozen[pid]


def _group(bench: Bench) -> int:
    return bench.chance.randrange(GROUPS)


def kill_group(bench: Bench) -> None:
    index = _group(bench)
    bench.fleet.children[f"group{index}"].kill()
    time.sleep(bench.chance.uniform(0.5, 3.0))
    bench.start_group(index)


def release_group(bench: Bench) -> None:
    """SIGTERM, as in a rolling upgrade."""
    index = _group(bench)
    bench.fleet.children[f"group{index}"].stop(timeout=20.0)
    bench.start_group(index)


def crash_engine(bench: Bench) -> bool:
    """The next engine call raises; nothing new while an earlier crash still waits for a call."""
    crash = bench.fleet.double / "crash"
    if crash.exists():
        return False
    crash.write_text(bench.chance.choice(("device-side assert", "disk full", "bug")))
    return True


def cancel_one(bench: Bench) -> bool:
    """An audit whose run is at work is given up, and the same is asked for again at once."""
    found = bench.fleet.rows(
        """SELECT a.id, a.request FROM audits a JOIN audit_runs x ON x.audit_id = a.id JOIN runs r ON r.id = x.run_id
           WHERE r.state = 'RUNNING' AND a.state IN ('QUEUED','RUNNING') ORDER BY random() LIMIT 1"""
    )
    if not found or str(found[0].id) not in bench.acknowledged:
        return False
    _cancel(bench, bench.acknowledged[str(found[0].id)])
    _post(bench, found[0].request, uuid4().hex)
    return True


def kill_dispatcher(bench: Bench) -> None:
    name = bench.chance.choice(["one", "two"])
    bench.fleet.children[name].kill()
    time.sleep(bench.chance.uniform(0.0, 2.0))
    bench.fleet.start_dispatcher(name)


def kill_api(bench: Bench) -> None:
    bench.fleet.children["api"].kill()
    bench.start_api()


def kill_broker(bench: Bench) -> None:
    bench.fleet.valkey.kill()
    time.sleep(bench.chance.uniform(0.5, 5.0))
    bench.fleet.valkey.start()


def freeze_broker(bench: Bench) -> None:
    bench.fleet.valkey.freeze()
    time.sleep(bench.chance.uniform(1.0, 8.0))
    bench.fleet.valkey.thaw()


def empty_broker(bench: Bench) -> None:
    with Connection(bench.fleet.valkey.url) as connection:
        channel: Any = connection.channel()
        channel._purge("cpu")


def ring_nonsense(bench: Bench) -> None:
    """Doubled, late and unknown doorbells."""
    from celery import Celery

    with Connection(bench.fleet.valkey.url) as connection:
        rows = bench.fleet.rows("SELECT id FROM runs ORDER BY random() LIMIT 5")
        for run in [str(uuid4()), *(str(row.id) for row in rows)]:
            Celery("nonsense", broker=bench.fleet.valkey.url).send_task(
                "spinal.run", args=[run], queue="cpu", connection=connection, ignore_result=True
            )


def cut_database_connections(bench: Bench) -> None:
    bench.fleet.rows(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'spinal' "
        "AND pid <> pg_backend_pid() AND random() < 0.5"
    )


def restart_database(bench: Bench) -> None:
    bench.postgres.stop()
    bench.postgres.start()


def kill_database(bench: Bench) -> None:
    bench.postgres.kill()
    time.sleep(bench.chance.uniform(0.0, 3.0))
    bench.postgres.start()


FAULTS: dict[Callable[[Bench], bool | None], float] = {
    freeze_child: 30, kill_child: 6, crash_engine: 4, cancel_one: 3, ring_nonsense: 3, cut_database_connections: 3,
    kill_group: 1.5,
    release_group: 1.5, kill_dispatcher: 2, empty_broker: 2, kill_broker: 1, freeze_broker: 1, kill_api: 1,
    restart_database: 0.5, kill_database: 0.5,
}  # fmt: skip
"""Every fault and how often it is chosen. One that returns False, or met a database that was away, did not happen."""


def inject(bench: Bench, load: threading.Thread, console: Console) -> None:
    """One fault after another, for as long as there is load. In the main thread: processes started here end with the
    thread that started them."""
    kinds, weights = list(FAULTS), list(FAULTS.values())
    started = said = time.monotonic()
    while load.is_alive():
        [fault] = bench.chance.choices(kinds, weights)
        with suppress(DatabaseUnavailable):
            if fault(bench) is not False:
                bench.faults[fault.__name__] += 1
        wake(bench)
        load.join(bench.chance.uniform(0.2, 1.2))
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            done, faults = len(bench.acknowledged), sum(bench.faults.values())
            console.print(f"{said - started:6.0f} s  {done} audits acknowledged, {faults} faults", highlight=False)


# --- judgement ---------------------------------------------------------------------------------------


OPEN = """SELECT (SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING'))
                 + (SELECT count(*) FROM runs WHERE state IN ('QUEUED','RUNNING'))"""


def settle_down(bench: Bench) -> float:
    """No more faults, everything awake; returns the seconds until no audit and no run was open (or the limit)."""
    wake(bench, everything=True)
    started = time.monotonic()
    while time.monotonic() - started < QUIET_LIMIT_S:
        with suppress(DatabaseUnavailable):
            if bench.fleet.rows(OPEN) == [(0,)]:
                break
        time.sleep(0.5)
    return time.monotonic() - started


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


RECOVERIES = """
    SELECT CAST(EXTRACT(epoch FROM COALESCE(n.started_at, r.finished_at) - a.started_at) AS float8) AS seconds
    FROM run_attempts a JOIN runs r ON r.id = a.run_id
    LEFT JOIN run_attempts n ON n.run_id = a.run_id AND n.attempt = a.attempt + 1
    WHERE a.outcome IN ('lost','retry','released')"""


def judge(bench: Bench, submitted: int) -> dict[str, Any]:
    """What became of every audit. Duplicated: runs that succeeded twice, audits beyond one per Idempotency-Key."""
    rows = bench.fleet.rows
    states = {str(row.id): row for row in rows("SELECT id, state, error->>'code' AS code FROM audits")}
    recoveries = [row.seconds for row in rows(RECOVERIES) if row.seconds is not None]
    outcomes = {row.outcome: row.n for row in rows("SELECT outcome, count(*) AS n FROM run_attempts GROUP BY outcome")}
    with bench.fleet.ledger.read() as session:
        broken = violations(session)
    ended = Counter(states[audit].state for audit in bench.acknowledged if audit in states)
    failed = [states[a] for a in bench.acknowledged if a in states and states[a].state == "FAILED"]
    [(runs,)] = rows("SELECT count(*) FROM runs")
    [(twice,)] = rows(
        """SELECT count(*) FROM (SELECT run_id FROM run_attempts WHERE outcome = 'succeeded' GROUP BY run_id
           HAVING count(*) > 1) t"""
    )
    [(ends, beats)] = rows("SELECT COALESCE(sum(refused_writes), 0), COALESCE(sum(refused_beats), 0) FROM run_attempts")
    [(accepted,)] = rows(
        """SELECT count(*) FROM runs r LEFT JOIN run_attempts a
             ON a.run_id = r.id AND a.attempt = r.attempt AND a.outcome = 'succeeded'
           WHERE r.state = 'SUCCEEDED' AND a.run_id IS NULL"""
    )
    [(open_runs,)] = rows("SELECT count(*) FROM runs WHERE state IN ('QUEUED','RUNNING')")
    deadlocks = (bench.fleet.folder / "postgres.log").read_text(errors="replace").count("deadlock detected")
    cancelled = {a for a in bench.acknowledged if a in states and states[a].state == "CANCELLED"}
    return {
        "audits submitted": submitted,
        "runs": runs,
        "audits acknowledged": len(bench.acknowledged),
        "never acknowledged": len(bench.planned - set(bench.acknowledged.values())),
        "audits by end": dict(ended),
        "lost": len([a for a in bench.acknowledged if a not in states])
        + len(cancelled - bench.cancelled)
        + len(bench.obeyed - cancelled)
        + len([row for row in failed if row.code not in ("attempts_exhausted", "dependency_failed")]),
        "duplicated": twice + len(states) - len(set(bench.acknowledged.values())),
        "unexpected answers": bench.unexpected[:3],
        "stuck": ended["QUEUED"] + ended["RUNNING"] + open_runs,
        "deadlocks": deadlocks,
        "failed with the history of their attempts": len(failed),
        "attempts by outcome": {str(name): count for name, count in outcomes.items()},
        "zombie writes refused": int(ends + beats),
        "of these ends of attempts / heartbeats": [int(ends), int(beats)],
        "zombie writes accepted": accepted,
        "recoveries": len(recoveries),
        "recovery s, p50 / p90 / p99 / most": [
            round(percentile(recoveries, share), 1) for share in (0.5, 0.9, 0.99, 1.0)
        ],
        "invariants violated": {name: len(found) for name, found in broken.items()},
    }


def show(bench: Bench, verdict: dict[str, Any], console: Console) -> None:
    faults = Table("fault injected", "times", title="what was done")
    for name, count in sorted(bench.faults.items(), key=lambda item: -item[1]):
        faults.add_row(name.replace("_", " "), str(count))
    found = Table("", "", title="what became of it", show_header=False)
    for name, value in verdict.items():
        found.add_row(name, json.dumps(value) if not isinstance(value, str) else value)
    console.print(faults, found)


# --- the run -----------------------------------------------------------------------------------------


def build(stack: ExitStack, folder: Path, *, lease_s: float, seed: int) -> Bench:
    """A durable Postgres, a broker and the environment of the service's processes; none of those is started."""
    servers = as_unprivileged(Path(stack.enter_context(TemporaryDirectory(prefix="spinal-chaos-"))))
    postgres = PostgresServer(servers, log=folder / "postgres.log", durable=True)
    postgres.start()
    stack.callback(postgres.stop)
    valkey = ValkeyServer(servers, log=folder / "valkey.log", durable=False)
    valkey.start()
    stack.callback(valkey.stop)
    settings = Settings(
        database_url=SecretStr(postgres.url),
        artifact_url=f"file://{folder / 'artifacts'}",
        model_roots=(EXAMPLES / "checkpoints",),
    )
    upgrade(settings)
    environment = fleet_environment(settings, valkey, folder) | {
        "SPINAL_LEASE_S": str(lease_s),
        "SPINAL_MAX_ATTEMPTS": "8",
        "SPINAL_AUTH": "disabled",
        "OMP_NUM_THREADS": "1",
    }
    (folder / "double").mkdir()
    (folder / "double" / "pace").write_text(str(PACE_S))
    ledger = Ledger(settings)
    stack.callback(ledger.close)
    fleet = Fleet(settings, ledger, valkey, folder, environment)
    stack.callback(fleet.kill_all)
    return Bench(fleet, postgres, free_port(), random.Random(seed), lease_s)


def run(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    with ExitStack() as stack:
        bench = build(stack, folder, lease_s=arguments.lease, seed=arguments.seed)
        bench.start_api()
        for name in ("one", "two"):
            bench.fleet.start_dispatcher(name)
        for index in range(GROUPS):
            bench.start_group(index)
        load = threading.Thread(target=submit_on, args=(bench, arguments.runs, arguments.minutes * 60), daemon=True)
        load.start()
        inject(bench, load, console)
        quiet = settle_down(bench)
        verdict = judge(bench, arguments.runs) | {"seconds from the last fault to the last end": round(quiet, 1)}
        show(bench, verdict, console)
        return verdict | {"faults": dict(bench.faults), "seed": arguments.seed, "lease_s": arguments.lease}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.chaos", description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lease", type=float, default=Settings.model_fields["lease_s"].default)
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one is removed afterwards")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(f"seed {arguments.seed}, lease {arguments.lease:g} s, {GROUPS} workers of {CHILDREN} processes")
    with ExitStack() as stack:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        folder = arguments.keep or Path(stack.enter_context(TemporaryDirectory(prefix="spinal-chaos-logs-")))
        verdict = run(arguments, folder, console)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(verdict, indent=2) + "\n")
    missed = missed_bars(verdict)
    for bar in missed:
        console.print(f"missed: {bar}", highlight=False)
    return 1 if missed else 0


def missed_bars(verdict: dict[str, Any]) -> list[str]:
    """What did not hold, in words."""
    must_be_none = (
        "never acknowledged", "lost", "duplicated", "stuck", "deadlocks", "unexpected answers",
        "zombie writes accepted",
        "invariants violated",
    )  # fmt: skip
    missed = [f"{name}: {verdict[name]}" for name in must_be_none if verdict[name]]
    if verdict["recovery s, p50 / p90 / p99 / most"][2] > RECOVERY_P99_S:
        missed.append(f"recovery p99 above {RECOVERY_P99_S:g} s")
    if verdict["audits submitted"] >= LONG_RUN and verdict["zombie writes refused"] < ZOMBIE_WRITES:
        missed.append(f"fewer than {ZOMBIE_WRITES} zombie writes")
    return missed


if __name__ == "__main__":
    sys.exit(main())
