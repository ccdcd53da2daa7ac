"""Reading from a large ledger, by the former release and by this one: ``python -m benchmarks.reading --audits 100000``.

One Postgres is filled with audits; the API of the former release (taken from the history of the repository) and that
of this checkout are started on it, both with keys. Each request is sent to both in turn. Shown are the median time of
an answer as its caller sees it, the CPU that the API spent on it, and the bytes on the wire. Beside the tenant with all
those audits asks one with a single audit, which holds the same results. The pass of retention is a process of its own,
which says what it would delete; its time and CPU are those of the process, its start included. Compare columns, not
runs: the machine decides the rest. Ends with an error when the two do not list the same.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.orm import Session

from devstack import throwaway_postgres
from devstack.processes import HOST, Child, as_unprivileged, free_port, wait_until
from service.database.unit_of_work import Ledger
from service.http.pagination import encode
from service.keys.store import create_key
from service.operations.migrate import upgrade
from service.settings import Settings
from service.traces.store import store_trace
from tests.support.fabricated import changed_pair
from tests.support.former import APP, FORMER, environment_of, unpack
from tests.support.places import ROOT

PEPPER = "benchmark"
LARGE, SMALL = "t", "small"
"""The tenants: one with nearly every audit, one with a single one."""
COMPARISONS, MODELS, OLD_TRACES, OPEN = 200, 400, 2000, 50
RETENTIONS = 5
"""Passes of retention."""
DEEP = 0.8
"""The deep page begins behind so much of the listing."""


@dataclass(frozen=True)
class Api:
    """One release's API."""

    name: str
    child: Child
    client: httpx.Client
    keys: dict[str, str]
    retention: list[str]
    """Arguments to Python of the pass of retention."""
    environment: dict[str, str]
    code: Path

    def get(self, asked: "Request") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.keys[asked.tenant]}"}
        return self.client.get(asked.path, params=asked.parameters, headers=headers)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Request:
    path: str
    parameters: dict[str, Any] = field(default_factory=dict)
    tenant: str = LARGE


def fill(session: Session, audits: int) -> None:
    """Audits of the large tenant, newest last: comparisons shared by many, each audit with its three runs. After them
    some that are open, and the one of the small tenant."""
    session.execute(text("SET LOCAL statement_timeout = 0"))
    pair = changed_pair(blocks=24)
    made = pair.compare()
    document = made.model_dump(mode="json", by_alias=True, exclude={"verdict": {"rules"}})
    verdict = made.verdict.model_dump(mode="json")
    for trace in (pair.reference, pair.candidate):
        store_trace(session, trace, capture_uri=f"file:///nowhere/{trace.digest}", capture_bytes=1)
    # Traces of others, whose captures retention looks at.
    session.execute(
        text("""INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source,
                  n_layers, document, content_digest, capture_uri, capture_bytes, created_at)
                SELECT 'e' || lpad(to_hex(n), 63, '0'), weights_digest, prompt_set_digest, fingerprint, engine_version,
                  source, n_layers, document, content_digest, 'file:///nowhere/' || n, 1, now() - interval '1 year'
                FROM traces, generate_series(1, :old) n WHERE digest = :reference"""),
        {"old": OLD_TRACES, "reference": made.reference.digest},
    )
    session.execute(
        text("""INSERT INTO comparisons (digest, reference_digest, candidate_digest, comparison_fingerprint, document)
                SELECT lpad(to_hex(n), 64, '0'), :reference, :candidate, 'f',
                  jsonb_set(CAST(:document AS jsonb), '{digest}', to_jsonb(lpad(to_hex(n), 64, '0')))
                FROM generate_series(1, :comparisons) n"""),
        {
            "reference": made.reference.digest,
            "candidate": made.candidate.digest,
            "document": json.dumps(document),
            "comparisons": COMPARISONS,
        },
    )
    session.execute(
        text("""INSERT INTO runs (id, kind, spec, spec_digest, queue, state, attempt, charged_attempts, result_digest,
                  finished_at)
                SELECT CAST(lpad(to_hex(n * 4 + k), 32, '0') AS uuid),
                  CASE k WHEN 2 THEN 'compare' ELSE 'trace' END, '{}',
                  lpad(to_hex(n * 4 + k), 64, '0'), 'cpu', 'SUCCEEDED', 1, 1,
                  CASE k WHEN 0 THEN :reference WHEN 1 THEN :candidate ELSE lpad(to_hex(n), 64, '0') END, now()
                FROM generate_series(1, :comparisons) n, generate_series(0, 2) k"""),
        {"reference": made.reference.digest, "candidate": made.candidate.digest, "comparisons": COMPARISONS},
    )
    session.execute(
        text("""INSERT INTO audits (id, tenant, candidate, reference, request, spec, labels, state, verdict,
                  verdict_document, error, candidate_trace, reference_trace, comparison, created_at, finished_at)
                SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), 't', 'local:model-' || n % :models, 'local:base',
                  '{"candidate": "local:model"}',
                  '{"prompt_set": {"digest": "p", "name": "hh-harmless-128", "count": 128}, "fingerprint": "f",
                    "candidate": {"source": "local:model"}, "reference": {"source": "local:base"}}',
                  jsonb_build_object('release', CAST(n % 50 AS text)),
                  CASE WHEN failed THEN 'FAILED' ELSE 'SUCCEEDED' END,
                  CASE WHEN failed THEN NULL WHEN n % 100 = 0 THEN 'warn' ELSE 'pass' END,
                  CASE WHEN failed THEN NULL ELSE jsonb_set(CAST(:verdict AS jsonb), '{outcome}',
                    to_jsonb(CASE WHEN n % 100 = 0 THEN 'warn' ELSE 'pass' END)) END,
                  CASE WHEN failed THEN '{"code": "model_changed"}'::jsonb END,
                  CASE WHEN failed THEN NULL ELSE :candidate END, CASE WHEN failed THEN NULL ELSE :reference END,
                  CASE WHEN failed THEN NULL ELSE lpad(to_hex(1 + n % :comparisons), 64, '0') END,
                  now() - (:audits - n) * interval '1 second', now()
                FROM (SELECT n, n % 2000 = 7 AS failed FROM generate_series(1, :audits) n) AS numbered"""),
        {
            "models": MODELS,
            "comparisons": COMPARISONS,
            "audits": audits,
            "verdict": json.dumps(verdict),
            "reference": made.reference.digest,
            "candidate": made.candidate.digest,
        },
    )
    session.execute(
        text("""INSERT INTO audit_runs (audit_id, role, run_id)
                SELECT CAST(lpad(to_hex(n), 32, '0') AS uuid), role,
                  CAST(lpad(to_hex((1 + n % :comparisons) * 4 + k), 32, '0') AS uuid)
                FROM generate_series(1, :audits) n,
                  (VALUES (0, 'reference'), (1, 'candidate'), (2, 'compare')) r(k, role)"""),
        {"comparisons": COMPARISONS, "audits": audits},
    )
    session.execute(
        text("""INSERT INTO audits (id, tenant, candidate, reference, request, spec, state, created_at)
                SELECT CAST(lpad(to_hex(:audits + n), 32, '0') AS uuid), 'another', 'local:new', 'local:base',
                  '{}', '{}', 'QUEUED', now() FROM generate_series(1, :open) n"""),
        {"audits": audits, "open": OPEN},
    )
    first, only = UUID(int=1), UUID(int=audits + OPEN + 1)
    columns = """candidate, reference, request, spec, labels, state, verdict, verdict_document, candidate_trace,
      reference_trace, comparison, created_at, finished_at"""
    session.execute(
        text(f"""INSERT INTO audits (id, tenant, {columns})
                 SELECT :only, :small, {columns} FROM audits WHERE id = :first"""),
        {"only": only, "small": SMALL, "first": first},
    )
    session.execute(
        text("INSERT INTO audit_runs SELECT :only, role, run_id FROM audit_runs WHERE audit_id = :first"),
        {"only": only, "first": first},
    )


def requests(session: Session, audits: int) -> dict[str, Request]:
    """What is asked, by name."""
    behind = session.execute(
        text(
            "SELECT created_at, id FROM audits WHERE tenant = :t ORDER BY created_at DESC, id DESC OFFSET :deep LIMIT 1"
        ),
        {"t": LARGE, "deep": int(audits * DEEP)},
    ).one()
    one, page = f"/v1/audits/{UUID(int=audits - 3)}", {"limit": 20}
    pair = session.execute(text("SELECT reference_digest, candidate_digest FROM comparisons LIMIT 1")).one()
    trace, diff = f"/v1/traces/{pair.candidate_digest}", f"/v1/diffs/{pair.reference_digest}...{pair.candidate_digest}"
    return {
        "list 20": Request("/v1/audits", page),
        "list 200": Request("/v1/audits", {"limit": 200}),
        "deep page of 20": Request("/v1/audits", page | {"cursor": encode(*behind)}),
        "state=FAILED": Request("/v1/audits", page | {"state": "FAILED"}),
        "verdict=warn": Request("/v1/audits", page | {"verdict": "warn"}),
        "verdict=fail (none)": Request("/v1/audits", page | {"verdict": "fail"}),
        "model=local:model-7": Request("/v1/audits", page | {"model": "local:model-7"}),
        "one audit": Request(one),
        "its scores": Request(f"{one}/scores"),
        "traces": Request("/v1/traces", page),
        "one trace": Request(trace),
        "diff": Request(diff),
        "small tenant: list": Request("/v1/audits", page, SMALL),
        "small tenant: audit": Request(f"/v1/audits/{UUID(int=audits + OPEN + 1)}", tenant=SMALL),
        "small tenant: traces": Request("/v1/traces", page, SMALL),
        "small tenant: trace": Request(trace, tenant=SMALL),
        "small tenant: diff": Request(diff, tenant=SMALL),
    }


@contextmanager
def api(name: str, folder: Path, url: str, keys: dict[str, str], code: Path | None) -> Iterator[Api]:
    port = free_port()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("SPINAL_")},
        "SPINAL_DATABASE_URL": url,
        "SPINAL_KEY_PEPPER": PEPPER,
        "SPINAL_LOG_LEVEL": "warning",
        "SPINAL_ARTIFACT_URL": f"file://{folder / 'artifacts'}",
    }
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "service.app:create_app" if code is None else APP,
        "--factory",
        "--no-access-log",
        "--host",
        HOST,
    ]
    if code is not None:
        environment = environment_of(code, environment)
    child = Child(name, [*command, "--port", str(port)], log=folder / f"{name}.log", env=environment, cwd=code or ROOT)
    retention = ["spinal.cli.main", "retention"] if code is None else ["service.retention"]
    try:
        with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=120.0) as client:
            wait_until(lambda: _is_ready(client), child, timeout=60.0)
            yield Api(name, child, client, keys, retention, environment, code or ROOT)
    finally:
        child.kill()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def listed(answer: dict[str, Any]) -> Any:
    """What two releases have to agree on."""
    if "diff" in answer:
        return answer["diff"]["layers"]
    items = answer.get("items", [answer])
    return [[item.get(name) for name in ("id", "digest", "comparison", "state", "scores")] for item in items]


def measure(apis: list[Api], asked: Request, times: int) -> dict[str, dict[str, float]]:
    """Milliseconds of answer and CPU and kilobytes on the wire, for each API; the two are asked in turn."""
    took: dict[str, list[float]] = {one.name: [] for one in apis}
    cpu: dict[str, float] = dict.fromkeys(took, 0.0)
    size: dict[str, int] = dict.fromkeys(took, 0)
    answers = []
    for one in apis:
        answer = one.get(asked)
        answer.raise_for_status()
        answers.append(listed(answer.json()))
    if answers[0] != answers[-1]:
        raise SystemExit(f"the releases do not agree on {asked}")
    for _ in range(times):
        for one in apis:
            before, started = one.cpu_s(), time.perf_counter()
            answer = one.get(asked)
            took[one.name].append(1000 * (time.perf_counter() - started))
            cpu[one.name] += one.cpu_s() - before
            size[one.name] = int(answer.headers.get("content-length", len(answer.content)))
    return {
        name: {"ms": statistics.median(took[name]), "cpu_ms": 1000 * cpu[name] / times, "kB": size[name] / 1000}
        for name in took
    }


def measure_retention(apis: list[Api]) -> dict[str, dict[str, float]]:
    """The same of the pass of retention, which deletes nothing."""
    took: dict[str, list[float]] = {one.name: [] for one in apis}
    cpu: dict[str, list[float]] = {one.name: [] for one in apis}
    said: dict[str, bytes] = {}
    for _ in range(RETENTIONS):
        for one in apis:
            before, started = _cpu_of_children_s(), time.perf_counter()
            said[one.name] = subprocess.run(
                [sys.executable, "-m", *one.retention, "--captures-days", "30"],
                env=one.environment, cwd=one.code, stdout=subprocess.PIPE, check=True,
            ).stdout  # fmt: skip
            took[one.name].append(1000 * (time.perf_counter() - started))
            cpu[one.name].append(1000 * (_cpu_of_children_s() - before))
    if len({json.dumps(json.loads(text)) for text in said.values()}) != 1:
        raise SystemExit(f"the releases do not agree on what may be deleted: {said}")
    return {
        name: {
            "ms": statistics.median(took[name]),
            "cpu_ms": statistics.median(cpu[name]),
            "kB": len(said[name]) / 1000,
        }
        for name in took
    }


def _cpu_of_children_s() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.reading", description=__doc__)
    parser.add_argument("--audits", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=40, help="how often each request is sent to each")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    console = Console(stderr=chosen.json, width=120)
    with ExitStack() as stack:
        folder = as_unprivileged(Path(stack.enter_context(TemporaryDirectory(prefix="spinal-reading-"))))
        server = stack.enter_context(throwaway_postgres())
        settings = Settings(database_url=SecretStr(server.url), key_pepper=SecretStr(PEPPER))
        upgrade(settings)
        ledger = Ledger(settings)
        stack.callback(ledger.close)
        console.print(f"filling the ledger with {chosen.audits:,} audits")
        with ledger.begin() as session:
            fill(session, chosen.audits)
            keys = {t: create_key(session, tenant=t, scopes=("read",), pepper=PEPPER) for t in (LARGE, SMALL)}
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        with ledger.read() as session:
            asked = requests(session, chosen.audits)
        former = unpack(folder / "former")
        apis = [
            stack.enter_context(api(f"before ({FORMER})", folder, server.url, keys, former)),
            stack.enter_context(api("now", folder, server.url, keys, None)),
        ]
        found = {name: measure(apis, request, chosen.times) for name, request in asked.items()}
        found["retention"] = measure_retention(apis)
    if chosen.json:
        json.dump(found, sys.stdout, indent=2)
        return 0
    show(console, found)
    return 0


def show(console: Console, found: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table(title="Reading, before and now: medians, as the caller sees it and as the API spends it")
    for column in ("", "ms before", "now", "ratio", "CPU ms before", "now", "ratio", "kB before", "now"):
        table.add_column(column, justify="left" if not column else "right")
    for name, by in found.items():
        before, now = by.values()
        cells = []
        for member in ("ms", "cpu_ms"):
            ratio = now[member] / before[member] if before[member] else float("nan")
            cells += [f"{before[member]:.1f}", f"{now[member]:.1f}", f"{ratio:.2f}"]
        table.add_row(name, *cells, f"{before['kB']:.1f}", f"{now['kB']:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
