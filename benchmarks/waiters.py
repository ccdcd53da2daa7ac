"""What requests that wait cost everybody else: ``python -m benchmarks.waiters --waiters 1000 --times 500``.

A real API on a Postgres of its own. One tenant reads an audit again and again, one request after another, first alone,
then beside so many requests of another tenant that wait for the end of theirs (``?wait=``). Then that audit is
cancelled, and the time is taken until all have their answer, while the first tenant goes on reading. Compare columns,
not runs: the machine decides the rest. Exit 1 when a request failed, or p99 reached 200 ms beside the waiters.
"""

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from benchmarks.chaos import percentile
from devstack import throwaway_postgres
from devstack.processes import HOST, Child, as_unprivileged, free_port, wait_until
from service.audits.store import cancel_audit
from service.database.unit_of_work import Ledger
from service.keys.store import create_key
from service.operations.migrate import upgrade
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PEPPER = "benchmark"
WAITS_FOR, READS = UUID(int=1), UUID(int=2)
WAIT_S = 3600
ANSWER_S = 300.0
P99_LIMIT_MS = 200.0


def read(client: httpx.Client, times: int) -> list[float]:
    """Milliseconds of each read."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        client.get(f"/v1/audits/{READS}").raise_for_status()
        took.append(1000 * (time.perf_counter() - began))
    return took


@contextmanager
def waiting(port: int, key: str, count: int, child: Child) -> Iterator[list[socket.socket]]:
    """So many requests that the API has taken, and not answered."""
    head = f"GET /v1/audits/{WAITS_FOR}?wait={WAIT_S} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    ask = head.encode()
    folder = Path(f"/proc/{child.pid}/fd")
    before = len(list(folder.iterdir()))
    with ExitStack() as stack:
        sockets = []
        for _ in range(count):
            each = stack.enter_context(socket.create_connection((HOST, port), timeout=ANSWER_S))
            each.sendall(ask)
            sockets.append(each)
        wait_until(lambda: len(list(folder.iterdir())) >= before + count * 0.99, child, timeout=ANSWER_S)
        # Those that wait look in turn: when the last has been answered, all others wait.
        last = httpx.get(
            f"http://{HOST}:{port}/v1/audits/{WAITS_FOR}?wait=0.001",
            headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_S,
        )  # fmt: skip
        last.raise_for_status()
        yield sockets


def answered(sockets: list[socket.socket]) -> float:
    """Seconds until all have read that the audit has ended."""
    began = time.perf_counter()
    for each in sockets:
        came = b""
        while b"}" not in came.rpartition(b"\r\n\r\n")[2]:
            came += each.recv(65536) or _lost(came)
        if not came.startswith(b"HTTP/1.1 200") or b"CANCELLED" not in came:
            raise SystemExit(f"a waiter was answered {came[:200]!r}")
    return time.perf_counter() - began


def _lost(came: bytes) -> bytes:
    raise SystemExit(f"a waiter was hung up on after {came[:200]!r}")


def prepare(ledger: Ledger) -> dict[str, str]:
    """Keys by tenant, with one audit each."""
    with ledger.begin() as session:
        for audit, tenant in ((WAITS_FOR, "waits"), (READS, "reads")):
            session.execute(
                text("""INSERT INTO audits (id, tenant, candidate, request, spec, state)
                        VALUES (:id, :tenant, 'local:new', '{}',
                          '{"prompt_set": {"digest": "p", "name": "p", "count": 1}, "fingerprint": "f",
                            "candidate": {"source": "local:new"}}', 'QUEUED')"""),
                {"id": audit, "tenant": tenant},
            )
        return {
            tenant: create_key(session, tenant=tenant, scopes=("read",), pepper=PEPPER) for tenant in ("waits", "reads")
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.waiters", description=__doc__)
    parser.add_argument("--waiters", type=int, default=1000)
    parser.add_argument("--times", type=int, default=500, help="how often the other tenant reads")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, width=120)
    with ExitStack() as stack:
        folder = as_unprivileged(Path(stack.enter_context(TemporaryDirectory(prefix="spinal-waiters-"))))
        server = stack.enter_context(throwaway_postgres())
        settings = Settings(database_url=SecretStr(server.url), key_pepper=SecretStr(PEPPER))
        upgrade(settings)
        ledger = Ledger(settings)
        stack.callback(ledger.close)
        keys, port = prepare(ledger), free_port()
        child = Child(
            "api", [sys.executable, "-m", "service", "--port", str(port)], log=folder / "api.log", cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("SPINAL_")}
            | {"SPINAL_DATABASE_URL": server.url, "SPINAL_KEY_PEPPER": PEPPER, "SPINAL_LOG_LEVEL": "warning",
               "SPINAL_MAX_WAIT_S": str(WAIT_S), "SPINAL_MAX_WAITERS": str(chosen.waiters + 1)},
        )  # fmt: skip
        stack.callback(child.kill)
        client = stack.enter_context(
            httpx.Client(
                base_url=f"http://{HOST}:{port}", timeout=ANSWER_S, headers={"Authorization": f"Bearer {keys['reads']}"}
            )
        )
        wait_until(lambda: _is_ready(client), child, timeout=ANSWER_S)
        read(client, chosen.times // 10)
        took = {"alone": read(client, chosen.times)}
        with waiting(port, keys["waits"], chosen.waiters, child) as sockets:
            read(client, chosen.times // 10)
            took["beside waiters"] = read(client, chosen.times)
            beside: list[float] = []
            over = threading.Event()
            reading = threading.Thread(target=lambda: _read_until(over, client, beside))
            reading.start()
            with ledger.begin() as session:
                cancel_audit(session, "waits", WAITS_FOR)
            last_s = answered(sockets)
            over.set()
            reading.join()
        took["while they are answered"] = beside
    return report(console, took, last_s, chosen.waiters, chosen.json)


def _read_until(over: threading.Event, client: httpx.Client, took: list[float]) -> None:
    while not over.is_set():
        took += read(client, 1)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def report(console: Console, took: dict[str, list[float]], last_s: float, waiters: int, as_json: bool) -> int:
    table = Table(title=f"reads of one tenant, {waiters:,} waiting requests of another", title_justify="left")
    for column in ("", "reads", "p50 ms", "p99 ms", "p99 as a ratio"):
        table.add_column(column, justify="left" if not column else "right")
    p99 = {name: percentile(times, 0.99) for name, times in took.items()}
    for name, times in took.items():
        ratio = p99[name] / p99["alone"]
        table.add_row(name, str(len(times)), f"{percentile(times, 0.5):.1f}", f"{p99[name]:.1f}", f"{ratio:.2f}")
    console.print(table)
    console.print(f"all {waiters:,} were answered within {last_s:.1f} s")
    if as_json:
        print(json.dumps({"p99_ms": p99, "answered_s": last_s, "waiters": waiters}))
    return 1 if p99["beside waiters"] >= P99_LIMIT_MS else 0


if __name__ == "__main__":
    sys.exit(main())
