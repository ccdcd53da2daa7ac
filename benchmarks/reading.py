"""Reading from a large ledger, by the former release and by this one: ``python -m benchmarks.reading --audits 100000``.

One Postgres is filled with audits; the API of the former release (taken from the history of the repository) and that
of this checkout are started on it, both with keys. Each request is sent to both in turn. Shown are the median time of
an answer as its caller sees it, the CPU that the API spent on it, and the bytes on the wire. Compare columns, not runs:
the machine decides the rest. Ends with an error when the two do not list the same.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
from tests.support.fabricated import changed_pair
from tests.support.former import APP, FORMER, environment_of, unpack
from tests.support.places import ROOT

PEPPER = "benchmark"
COMPARISONS, MODELS = 200, 400
DEEP = 0.8
"""The deep page begins behind so much of the listing."""


@dataclass(frozen=True)
class Api:
    """One release's API."""

    name: str
    child: Child
    client: httpx.Client

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fill(session: Session, audits: int) -> None:
    """Audits of one tenant, newest last: comparisons shared by many, each audit with its three runs."""
    session.execute(text("SET LOCAL statement_timeout = 0"))
    made = changed_pair(blocks=24).compare()
    document = made.model_dump(mode="json", by_alias=True, exclude={"verdict": {"rules"}})
    verdict = made.verdict.model_dump(mode="json")
    for name, digest in (("reference", made.reference.digest), ("candidate", made.candidate.digest)):
        session.execute(
            text("""INSERT INTO traces (digest, weights_digest, prompt_set_digest, fingerprint, engine_version, source,
                      n_layers, document, content_digest)
                    VALUES (:digest, :name, 'p', 'f', '1', :name, 24, '{}', 'c')"""),
            {"digest": digest, "name": name},
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
                  '{"prompt_set": {"digest": "p", "name": "hh-harmless-128", "count": 128}, "fingerprint": "f"}',
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


def requests(session: Session, audits: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """What is asked, by name: path and parameters."""
    behind = session.execute(
        text("SELECT created_at, id FROM audits ORDER BY created_at DESC, id DESC OFFSET :deep LIMIT 1"),
        {"deep": int(audits * DEEP)},
    ).one()
    one = f"/v1/audits/{UUID(int=audits - 3)}"
    return {
        "list 20": ("/v1/audits", {"limit": 20}),
        "list 200": ("/v1/audits", {"limit": 200}),
        "deep page of 20": ("/v1/audits", {"limit": 20, "cursor": encode(*behind)}),
        "state=FAILED": ("/v1/audits", {"limit": 20, "state": "FAILED"}),
        "verdict=warn": ("/v1/audits", {"limit": 20, "verdict": "warn"}),
        "verdict=fail (none)": ("/v1/audits", {"limit": 20, "verdict": "fail"}),
        "model=local:model-7": ("/v1/audits", {"limit": 20, "model": "local:model-7"}),
        "one audit": (one, {}),
        "its scores": (f"{one}/scores", {}),
    }


@contextmanager
def api(name: str, folder: Path, url: str, key: str, code: Path | None) -> Iterator[Api]:
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
    child = Child(
        name,
        [*command, "--port", str(port)],
        log=folder / f"{name}.log",
        env=environment if code is None else environment_of(code, environment),
        cwd=ROOT if code is None else code,
    )
    try:
        with httpx.Client(
            base_url=f"http://{HOST}:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=120.0
        ) as client:
            wait_until(lambda: _is_ready(client), child, timeout=60.0)
            yield Api(name, child, client)
    finally:
        child.kill()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def listed(answer: dict[str, Any]) -> Any:
    """What two releases have to agree on."""
    items = answer.get("items", [answer])
    return [(item.get("id"), item.get("comparison"), item.get("state"), item.get("scores")) for item in items]


def measure(apis: list[Api], path: str, parameters: dict[str, Any], times: int) -> dict[str, dict[str, float]]:
    """Milliseconds of answer and CPU and kilobytes on the wire, for each API; the two are asked in turn."""
    took: dict[str, list[float]] = {one.name: [] for one in apis}
    cpu: dict[str, float] = dict.fromkeys(took, 0.0)
    size: dict[str, int] = dict.fromkeys(took, 0)
    answers = []
    for one in apis:
        answer = one.client.get(path, params=parameters)
        answer.raise_for_status()
        answers.append(listed(answer.json()))
    if answers[0] != answers[-1]:
        raise SystemExit(f"the releases do not agree on {path} {parameters}")
    for _ in range(times):
        for one in apis:
            before, started = one.cpu_s(), time.perf_counter()
            answer = one.client.get(path, params=parameters)
            took[one.name].append(1000 * (time.perf_counter() - started))
            cpu[one.name] += one.cpu_s() - before
            size[one.name] = int(answer.headers.get("content-length", len(answer.content)))
    return {
        name: {"ms": statistics.median(took[name]), "cpu_ms": 1000 * cpu[name] / times, "kB": size[name] / 1000}
        for name in took
    }


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
            key = create_key(session, tenant="t", scopes=("read",), pepper=PEPPER)
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE"))
        with ledger.read() as session:
            asked = requests(session, chosen.audits)
        former = unpack(folder / "former")
        apis = [
            stack.enter_context(api(f"before ({FORMER})", folder, server.url, key, former)),
            stack.enter_context(api("now", folder, server.url, key, None)),
        ]
        found = {name: measure(apis, *request, chosen.times) for name, request in asked.items()}
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
