"""The long run: tenants on real processes, real Postgres and real Redis protocol, under random faults and outages.

``python -m benchmarks.chaos --minutes 5 --seed 1`` prints what was done to the service and what became of every audit
it had acknowledged. One tenant floods it: always ``--backlog`` audits of its own are open. Others submit one every
``--every`` seconds. Beside random faults, the store of captures goes away for ``--store-away`` seconds and the disks of
scratch files and captures are full for ``--full-disk`` seconds each (root alone can mount them; without that it says
so). ``--store s3`` keeps captures in OpenStack Swift, killed and started again; otherwise they are in a folder.
Timings of the service are its defaults (``--lease`` shortens the lease); an engine double stands in for the models.

Exit 1 when anything was lost, doubled, stuck or measured twice within a tenant, failed or was charged for the
infrastructure's sake, an invariant does not hold, the doctor finds anything, an audit of a small tenant waited for more
runs of the flood than of its own tenant and, beyond that, than there are worker processes (at the median; the most:
``STARTED_AT_MOST`` times as many), recovery p99 exceeds 60 s, or (with 2,000 audits or more) fewer than 200 writes of
zombies were there to be refused.
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
from collections.abc import Callable, Sequence
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
from service.keys.store import create_key
from service.operations.invariants import violations
from service.operations.migrate import upgrade
from service.settings import Settings
from spinal.errors import DatabaseUnavailable
from tests.support import chaos_judge
from tests.support.chaos_judge import percentile
from tests.support.fleet import Fleet, fleet_environment
from tests.support.object_server import OWNER, ObjectServer, missing
from tests.support.outages import BucketStore, Disk, FolderStore, small_disk
from tests.support.places import EXAMPLES
from tests.support.waiting import until

__all__ = ["Bench", "build", "percentile"]
FLOOD = "flood"
"""The tenant that always has many audits open."""
PEPPER = "pepper"
CHILDREN = 2
PACE_S = 4.0
"""The most seconds an engine call takes."""
START_LIMIT_S = 240.0
"""Of all processes, up to the end of a first audit."""
QUIET_LIMIT_S = 420.0
"""After the last fault every audit must have ended within this time."""
SAY_EVERY_S = 30.0
RECOVERY_P99_S = 60.0
STARTED_AT_MOST = 4
"""So many times the worker processes: the most runs of the flood that may start before an audit that was submitted
later. At the median it is once: what was at work when it came."""
DISK_MB = {"scratch": 64, "captures": 512}
LONG_RUN, ZOMBIE_WRITES = 2000, 200
"""A run of so many audits has to have met so many zombies."""


@dataclass
class Outage:
    """Something that is gone for a long time, once, while everything else goes on."""

    name: str
    at_s: float
    """When it begins, from the start of the load."""
    seconds: float
    begin: Callable[[], None]
    end: Callable[[], None]
    keep_up: Callable[[], None] = lambda: None
    """Called again and again meanwhile."""
    began: float | None = None
    ended: float | None = None

    def turn(self, since_start: float, *, over: bool = False) -> None:
        """What is to be done now; ``over`` ends it in any case."""
        if self.began is None and since_start >= self.at_s and not over:
            self.began = time.time()
            self.begin()
        elif self.began is not None and self.ended is None:
            if over or time.time() - self.began >= self.seconds:
                self.end()
                self.ended = time.time()
            else:
                self.keep_up()


@dataclass
class Bench:
    """The service under test, what was asked of it and what was done to it."""

    fleet: Fleet
    postgres: PostgresServer
    api_port: int
    chance: random.Random
    lease_s: float
    groups: int = 10
    """Workers, each of ``CHILDREN`` processes."""
    keys: dict[str, str] = field(default_factory=dict)
    """Tenant -> API key; none where the service asks for none."""
    outages: list[Outage] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    planned: set[str] = field(default_factory=set)
    """Idempotency-Keys of everything that is asked for; each has to be acknowledged."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Audit id -> Idempotency-Key."""
    owner: dict[str, str] = field(default_factory=dict)
    """Idempotency-Key -> tenant."""
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

    def headers(self, tenant: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[tenant]}"} if tenant in self.keys else {}

    def start_api(self) -> None:
        self.fleet.start(
            "api", "-m", "uvicorn", "service.app:create_app", "--factory", "--no-access-log", "--host", HOST,
            "--port", str(self.api_port), "--log-level", "error", SPINAL_LOG_LEVEL="error",
        )  # fmt: skip

    def start_group(self, index: int) -> None:
        self.fleet.start_worker(f"group{index}", concurrency=CHILDREN)


# --- load --------------------------------------------------------------------------------------------


def flood(bench: Bench, *, runs: int, seconds: float, backlog: int) -> None:
    """Submit audits that need runs of their own, as many as keep ``backlog`` of them open, until the time is over and
    ``runs`` are submitted; a request is repeated until it is acknowledged."""
    started, number = time.monotonic(), 0
    while number < runs or time.monotonic() - started < seconds:
        room = 0
        with suppress(DatabaseUnavailable):
            [(waiting,)] = bench.fleet.rows(
                "SELECT count(*) FROM audits WHERE state IN ('QUEUED','RUNNING') AND tenant = :tenant", tenant=FLOOD
            )
            room = backlog - waiting
        for _ in range(room):
            number += 1
            _submit_one(bench, FLOOD, number)
        time.sleep(0.1)


def submit_now_and_then(bench: Bench, tenant: str, *, every_s: float, over: threading.Event) -> None:
    """One audit every ``every_s`` seconds, of the same checkpoints and measured as those of the flood."""
    number = 0
    while not over.wait(bench.chance.uniform(0.5, 1.5) * every_s):
        number += 1
        _submit_one(bench, tenant, number)


def _submit_one(bench: Bench, tenant: str, number: int) -> None:
    body: dict[str, Any] = {"candidate": "local:dpo-short", "prompt_set": "hh-harmless-64"}
    if number % 3 == 0:
        body |= {"reference": "local:sft", "profile": {"seed": number, "bootstrap_draws": 200}}
    else:
        # A knob of the measurement: a specification of its own, thus a run of its own.
        body |= {"profile": {"max_tokens": 8 + number}}
    key = uuid4().hex
    sender = (bench, tenant, body, key)
    senders = [threading.Thread(target=_post, args=sender) for _ in range(2 if number % 10 == 0 else 1)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    if number % 40 == 0:
        _cancel(bench, key)
        # Asked for again at once: what was given up may still be at work, and what is shared is shared with others.
        _post(bench, tenant, body, uuid4().hex)


def _post(bench: Bench, tenant: str, body: dict[str, Any], key: str) -> None:
    bench.planned.add(key)
    bench.owner[key] = tenant
    headers = {"Idempotency-Key": key} | bench.headers(tenant)
    while True:
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{bench.url}/v1/audits", json=body, headers=headers, timeout=30.0)
            if answer.status_code in (201, 202):
                bench.acknowledged[answer.json()["id"]] = key
                return
            told = answer.headers.get("Retry-After") and answer.headers["Content-Type"] == "application/problem+json"
            if answer.status_code not in (409, 429, 503) or not told:
                bench.unexpected.append(f"{answer.status_code} {answer.text[:300]}")
                return
        time.sleep(0.3)


def _cancel(bench: Bench, key: str) -> None:
    headers = bench.headers(bench.owner[key])
    for audit in [audit for audit, known in list(bench.acknowledged.items()) if known == key]:
        # Before the request: it may be carried out although its answer gets lost.
        bench.cancelled.add(audit)
        with suppress(httpx.TransportError):
            answer = httpx.post(f"{bench.url}/v1/audits/{audit}/cancel", headers=headers, timeout=30.0)
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
    if len(bench.frozen) >= bench.groups * CHILDREN * 3 // 5:
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
    return bench.chance.randrange(bench.groups)


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
        """SELECT a.id, a.tenant, a.request
           FROM audits a JOIN audit_runs x ON x.audit_id = a.id JOIN runs r ON r.id = x.run_id
           WHERE r.state = 'RUNNING' AND a.state IN ('QUEUED','RUNNING') ORDER BY random() LIMIT 1"""
    )
    if not found or str(found[0].id) not in bench.acknowledged:
        return False
    _cancel(bench, bench.acknowledged[str(found[0].id)])
    _post(bench, found[0].tenant, found[0].request, uuid4().hex)
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


def inject(bench: Bench, load: threading.Thread, console: Console, *, every_s: float, only: Sequence[str] = ()) -> None:
    """A fault every ``every_s`` seconds or so (of those named in ``only``, if any are), and the outages when their time
    comes, for as long as there is load. In the main thread: processes started here end with the thread that started
    them."""
    chosen = {fault: weight for fault, weight in FAULTS.items() if not only or fault.__name__ in only}
    started = said = time.monotonic()
    while load.is_alive() or any(outage.ended is None for outage in bench.outages):
        [fault] = bench.chance.choices(list(chosen), list(chosen.values()))
        with suppress(DatabaseUnavailable):
            if fault(bench) is not False:
                bench.faults[fault.__name__] += 1
        wake(bench)
        for outage in bench.outages:
            outage.turn(time.monotonic() - started)
        time.sleep(bench.chance.uniform(0.3, 1.7) * every_s)
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            gone = "".join(f", {each.name}" for each in bench.outages if each.began and not each.ended)
            done, faults = len(bench.acknowledged), sum(bench.faults.values())
            console.print(
                f"{said - started:6.0f} s  {done} audits acknowledged, {faults} faults{gone}", highlight=False
            )


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


def judge(bench: Bench) -> dict[str, Any]:
    """What became of every audit. Duplicated: runs that succeeded twice, audits beyond one per Idempotency-Key."""
    rows = bench.fleet.rows
    states = {str(row.id): row for row in rows("SELECT id, state, error->>'code' AS code FROM audits")}
    gone = [(each.began, each.ended) for each in bench.outages if each.began and each.ended]
    recoveries = chaos_judge.recoveries(bench.fleet, gone, grace_s=bench.lease_s)
    found_by_doctor, said_by_doctor = chaos_judge.doctor(bench.fleet)
    with bench.fleet.ledger.read() as session:
        broken = violations(session)
    ended = Counter(states[audit].state for audit in bench.acknowledged if audit in states)
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
        "runs": runs,
        "audits acknowledged": len(bench.acknowledged),
        "audits by tenant": dict(Counter(bench.owner[key] for key in bench.acknowledged.values())),
        "never acknowledged": len(bench.planned - set(bench.acknowledged.values())),
        "audits by end": dict(ended),
        "lost": len([a for a in bench.acknowledged if a not in states])
        + len(cancelled - bench.cancelled)
        + len(bench.obeyed - cancelled),
        "duplicated": twice + len(states) - len(set(bench.acknowledged.values())),
        "unexpected answers": bench.unexpected[:3],
        "stuck": ended["QUEUED"] + ended["RUNNING"] + open_runs,
        "deadlocks": deadlocks,
        **chaos_judge.failures(bench.fleet, set(bench.acknowledged)),
        **chaos_judge.charges(bench.fleet),
        **chaos_judge.measurements(bench.fleet),
        "attempts at work while something was gone": chaos_judge.at_work(bench.fleet, gone),
        **chaos_judge.fairness(bench.fleet, FLOOD, children=bench.groups * CHILDREN),
        "zombie writes refused": int(ends + beats),
        "of these ends of attempts / heartbeats": [int(ends), int(beats)],
        "zombie writes accepted": accepted,
        "recoveries": len(recoveries),
        "recovery s, p50 / p90 / p99 / most": [
            round(percentile(recoveries, share), 1) for share in (0.5, 0.9, 0.99, 1.0)
        ],
        "invariants violated": {name: len(found) for name, found in broken.items()},
        "found by the doctor": said_by_doctor if found_by_doctor else "",
    }


def show(bench: Bench, verdict: dict[str, Any], console: Console) -> None:
    faults = Table("fault injected", "times", title="what was done")
    for name, count in sorted(bench.faults.items(), key=lambda item: -item[1]):
        faults.add_row(name.replace("_", " "), str(count))
    for outage in bench.outages:
        faults.add_row(outage.name, f"{(outage.ended or 0.0) - (outage.began or 0.0):.0f} s")
    found = Table("", "", title="what became of it", show_header=False)
    for name, value in verdict.items():
        found.add_row(name, json.dumps(value) if not isinstance(value, str) else value)
    console.print(faults, found)


# --- the run -----------------------------------------------------------------------------------------


def build(stack: ExitStack, folder: Path, *, lease_s: float, seed: int, tenants: Sequence[str] = ()) -> Bench:
    """A durable Postgres, a broker and the environment of the service's processes; none of those is started. With
    ``tenants`` the service asks for the keys that they have."""
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
        "SPINAL_AUTH": "required" if tenants else "disabled",
        "SPINAL_KEY_PEPPER": PEPPER,
        "OMP_NUM_THREADS": "1",
    }
    (folder / "double").mkdir()
    (folder / "double" / "pace").write_text(str(PACE_S))
    ledger = Ledger(settings)
    stack.callback(ledger.close)
    fleet = Fleet(settings, ledger, valkey, folder, environment)
    stack.callback(fleet.kill_all)
    bench = Bench(fleet, postgres, free_port(), random.Random(seed), lease_s)
    with ledger.begin() as session:
        bench.keys = {
            tenant: create_key(session, tenant=tenant, scopes=("read", "write"), pepper=PEPPER) for tenant in tenants
        }
    return bench


def plan_outages(stack: ExitStack, bench: Bench, arguments: argparse.Namespace, console: Console) -> list[str]:
    """Give the service the store and the disks that are to go away, and say when; returns what cannot be done here."""
    skipped, folder, whole = [], bench.fleet.folder, arguments.minutes * 60
    places = {name: folder / f"disk-{name}" for name in ("scratch", "captures")}
    disks: dict[str, Disk] = {}
    if arguments.full_disk > 0:
        try:
            for name in ("scratch", "captures") if arguments.store == "folder" else ("scratch",):
                disks[name] = stack.enter_context(small_disk(places[name], megabytes=DISK_MB[name]))
        except OSError as error:
            skipped.append(f"full disk: a disk of its own cannot be mounted here ({error.strerror}); run it as root")
    if disks:
        bench.fleet.environment["SPINAL_SCRATCH_DIR"] = str(places["scratch"] / "scratch")
    store: BucketStore | FolderStore
    if arguments.store == "s3":
        home = Path(stack.enter_context(TemporaryDirectory(prefix="spinal-chaos-store-")))
        if lacks := missing(home):
            raise SystemExit(f"error: --store s3 needs {lacks[0]}: {lacks[1]}")
        store = BucketStore(stack.enter_context(ObjectServer(home)))
        # Where the code takes no credentials of its own, its library looks for these.
        bench.fleet.environment |= {"AWS_ACCESS_KEY_ID": OWNER.id, "AWS_SECRET_ACCESS_KEY": OWNER.secret}
        bench.fleet.environment |= {"AWS_ENDPOINT_URL": store.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    else:
        store = FolderStore((places["captures"] if "captures" in disks else folder) / "artifacts")
    bench.fleet.environment |= store.environment
    if arguments.store_away > 0:
        bench.outages.append(Outage("store away", 0.2 * whole, arguments.store_away, store.leave, store.come_back))
    for number, (name, disk) in enumerate(disks.items()):
        # One after the other, and after the store has come back.
        at = max(0.6 * whole, 0.2 * whole + arguments.store_away + 5.0) + number * (arguments.full_disk + 5.0)
        bench.outages.append(Outage(f"disk of {name} full", at, arguments.full_disk, disk.fill, disk.free, disk.fill))
    for line in skipped:
        console.print(f"[bold red]SKIPPED[/] {line}", highlight=False)
    return skipped


def run(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    small = [f"small-{number}" for number in range(1, arguments.small + 1)]
    with ExitStack() as stack:
        bench = build(stack, folder, lease_s=arguments.lease, seed=arguments.seed, tenants=(FLOOD, *small))
        bench.groups = arguments.workers
        (bench.fleet.double / "pace").write_text(str(arguments.pace))
        bench.fleet.environment |= arguments.settings
        # Before the disks and the store go.
        with ExitStack() as surroundings:
            skipped = plan_outages(surroundings, bench, arguments, console)
            surroundings.callback(bench.fleet.kill_all)
            verdict = _run(bench, small, arguments, console)
        return verdict | {"skipped": skipped, "store": arguments.store, "seed": arguments.seed}


def _run(bench: Bench, small: Sequence[str], arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    bench.start_api()
    for name in ("one", "two"):
        bench.fleet.start_dispatcher(name)
    for index in range(bench.groups):
        bench.start_group(index)
    _submit_one(bench, FLOOD, 0)
    ended = "SELECT count(*) FROM audits WHERE state = 'SUCCEEDED'"
    until(lambda: bench.fleet.rows(ended) != [(0,)], "the first audit to end", timeout=START_LIMIT_S)
    over, seconds = threading.Event(), arguments.minutes * 60
    others = [
        threading.Thread(
            target=submit_now_and_then,
            args=(bench, name),
            kwargs={"every_s": arguments.every, "over": over},
            daemon=True,
        )
        for name in small
    ]
    load = threading.Thread(
        target=flood,
        args=(bench,),
        kwargs={"runs": arguments.runs, "seconds": seconds, "backlog": arguments.backlog},
        daemon=True,
    )
    for thread in (load, *others):
        thread.start()
    try:
        # The same share of the workers is up, however many there are: one that is killed takes seconds to return.
        inject(bench, load, console, every_s=arguments.fault_every or 7.0 / bench.groups, only=arguments.only)
    finally:
        for outage in bench.outages:
            outage.turn(0.0, over=True)
    over.set()
    wake(bench, everything=True)
    for thread in others:
        thread.join()
    quiet = settle_down(bench)
    verdict = judge(bench) | {"seconds from the last fault to the last end": round(quiet, 1)}
    show(bench, verdict, console)
    outages = {each.name: round((each.ended or 0.0) - (each.began or 0.0), 1) for each in bench.outages}
    return verdict | {"faults": dict(bench.faults), "outages, seconds": outages, "lease_s": arguments.lease}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=5.0, help="how long there is load")
    made.add_argument("--runs", type=int, default=0, help="audits of the flood at least, however long it takes")
    made.add_argument("--backlog", type=int, default=120, help="audits of the flood that are always open")
    made.add_argument("--small", type=int, default=2, help="tenants that submit now and then")
    made.add_argument("--every", type=float, default=10.0, help="seconds between two audits of such a tenant")
    made.add_argument("--workers", type=int, default=6, help=f"workers of {CHILDREN} processes")
    made.add_argument("--fault-every", type=float, help="seconds between two faults; fewer with more workers if unset")
    made.add_argument("--store", choices=("folder", "s3"), default="folder")
    made.add_argument("--store-away", type=float, default=90.0, help="seconds; 0 leaves it there")
    made.add_argument("--full-disk", type=float, default=30.0, help="seconds for each disk; 0 leaves them room")
    made.add_argument("--pace", type=float, default=PACE_S, help="the most seconds that an engine call takes")
    made.add_argument("--lease", type=float, default=Settings.model_fields["lease_s"].default)
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--only", nargs="*", default=(), choices=[fault.__name__ for fault in FAULTS], metavar="FAULT")
    made.add_argument("--keep", type=Path, help="folder for logs; a temporary one is removed afterwards")
    made.add_argument("--out", type=Path, help="write the result as JSON")
    made.set_defaults(settings={})
    return made


def main() -> int:
    arguments = parser().parse_args()
    # Ended from outside, it unmounts its disks, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(
        f"seed {arguments.seed}, lease {arguments.lease:g} s, {arguments.workers} workers of {CHILDREN} processes, "
        f"captures in {'a bucket' if arguments.store == 's3' else 'a folder'}"
    )
    with ExitStack() as stack:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
        folder = arguments.keep or Path(stack.enter_context(TemporaryDirectory(prefix="spinal-chaos-logs-")))
        verdict = run(arguments, folder, console)
    missed = missed_bars(verdict)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(verdict | {"missed": missed}, indent=2) + "\n")
    for bar in missed:
        console.print(f"missed: {bar}", highlight=False)
    return 1 if missed else 0


def missed_bars(verdict: dict[str, Any]) -> list[str]:
    """What did not hold, in words."""
    must_be_none = (
        "never acknowledged", "lost", "duplicated", "stuck", "deadlocks", "unexpected answers",
        "zombie writes accepted", "failed for the infrastructure's sake", "charged for the infrastructure's sake",
        "measured twice for a tenant", "stored captures measured again", "invariants violated", "found by the doctor",
    )  # fmt: skip
    missed = [f"{name}: {verdict[name]}" for name in must_be_none if verdict[name]]
    if verdict["outages, seconds"] and not verdict["attempts at work while something was gone"]:
        missed.append("no attempt was at work while something was gone: nothing can be said of outages")
    children = verdict["worker children"]
    middle, _, most = verdict["of these beyond one for each of their own, p50 / p90 / most"]
    if not verdict["audits of others that met the flood"]:
        missed.append("no audit of a small tenant met a flood: nothing can be said of fairness (a larger --backlog)")
    elif middle > children or most > STARTED_AT_MOST * children:
        missed.append(f"runs of the flood started before others' audits, median {middle}, most {most}")
    if verdict["recovery s, p50 / p90 / p99 / most"][2] > RECOVERY_P99_S:
        missed.append(f"recovery p99 above {RECOVERY_P99_S:g} s")
    if verdict["audits acknowledged"] >= LONG_RUN and verdict["zombie writes refused"] < ZOMBIE_WRITES:
        missed.append(f"fewer than {ZOMBIE_WRITES} zombie writes")
    return missed


if __name__ == "__main__":
    sys.exit(main())
