"""A fleet of real processes on one ledger: dispatchers, Celery workers, a broker of their own, an engine double."""

import os
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from devstack.processes import Child
from devstack.valkey import ValkeyServer
from service.audits.resolve import AuditRequest
from service.audits.verbs import cancel_audit, create_audit
from service.database.tables import AuditRecord
from service.database.unit_of_work import Ledger
from service.settings import Settings
from spinal.checkpoints.bounded import Bounds, Inspectors
from spinal.profile import MeasurementProfile
from tests.support.engine_double import calls
from tests.support.places import EXAMPLES, ROOT
from tests.support.waiting import until

LEASE_S = 3.0
DEFAULTS = MeasurementProfile()
SHORT_TIMINGS = {
    "SPINAL_LEASE_S": str(LEASE_S),
    "SPINAL_HEARTBEAT_S": "0.5",
    "SPINAL_RING_AGAIN_S": "2",
    "SPINAL_DISPATCH_INTERVAL_S": "0.3",
    "SPINAL_BACKOFF_S": "0.1",
}
"""With these, faults show within seconds."""
PATIENT_LEASE_S = 20.0
"""For workers that import torch in the middle of a run: on a busy machine that may keep a heartbeat waiting."""


@dataclass
class Fleet:
    """The processes, and what a test asks of them."""

    settings: Settings
    ledger: Ledger
    valkey: ValkeyServer
    folder: Path
    environment: dict[str, str]
    code: Path = ROOT
    """Folder whose code the processes run: uvicorn and celery import from where they stand."""
    children: dict[str, Child] = field(default_factory=dict)

    @property
    def double(self) -> Path:
        return self.folder / "double"

    def start(self, name: str, *command: str, **extra: str) -> Child:
        child = Child(
            name,
            [sys.executable, *command],
            log=self.folder / f"{name}.log",
            env=self.environment | extra,
            cwd=self.code,
        )
        self.children[name] = child
        return child

    def kill_all(self) -> None:
        """kill -9 of every process that was started."""
        for child in self.children.values():
            child.kill()

    def close(self) -> None:
        """Nothing of it runs any more."""
        self.kill_all()
        self._inspectors.close()

    def start_dispatcher(self, name: str = "dispatcher", **extra: str) -> Child:
        return self.start(name, "-m", "worker.dispatcher", **extra)

    def looks(self, name: str) -> int:
        """How often the dispatcher ``name`` (at log level debug) has looked for due runs."""
        return self.log(name).count("looked for due runs")

    def start_worker(self, name: str = "worker", concurrency: int = 1, **extra: str) -> Child:
        return self.start(
            name, "-m", "celery", "-A", "worker.celery_app", "worker", "--loglevel", "info", "--queues", "cpu",
            "--concurrency", str(concurrency), "--without-mingle", "--without-gossip", "-n", f"{name}@%h", **extra,
        )  # fmt: skip

    def submit(
        self,
        seed: int = 0,
        *,
        candidate: str = "local:dpo-short",
        reference: str | None = "local:sft",
        prompt_set: str = "hh-harmless-64",
        max_tokens: int = DEFAULTS.max_tokens,
    ) -> UUID:
        """An accepted audit; ``seed`` makes its comparison differ from others, ``max_tokens`` its traces."""
        request = AuditRequest(
            models={"candidate": candidate} | ({} if reference is None else {"reference": reference}),
            prompt_set=prompt_set,
            profile=MeasurementProfile(seed=seed, bootstrap_draws=200, max_tokens=max_tokens),
            body={"seed": seed, "prompt_set": prompt_set},
        )
        return create_audit(
            self.ledger, self.settings, self._inspectors, tenant="t", request=request, idempotency_key=None,
            request_id=None, traceparent=None,
        ).audit_id  # fmt: skip

    @cached_property
    def _inspectors(self) -> Inspectors:
        """Kept: a process that is started for each audit takes most of the time of a test with many."""
        return Inspectors(Bounds(children=1), self.settings.store_of_models())

    def cancel(self, audit: UUID) -> None:
        cancel_audit(self.ledger, "t", audit)

    def state(self, audit: UUID) -> str:
        with self.ledger.read() as session:
            found = session.get(AuditRecord, audit)
            assert found is not None
            return str(found.state)

    def attempts(self) -> list[tuple[int, str | None]]:
        """(attempt, outcome) of every attempt, in the order of their starts."""
        return [tuple(row) for row in self.rows("SELECT attempt, outcome FROM run_attempts ORDER BY started_at")]

    def wait_for(self, audit: UUID, state: str, timeout: float = 60.0) -> None:
        until(lambda: self.state(audit) == state, f"audit {state}, is {self.state(audit)}", timeout=timeout)

    def rows(self, query: str, **parameters: Any) -> list[Any]:
        with self.ledger.read() as session:
            return list(session.execute(text(query), parameters).all())

    def hold(self) -> None:
        """From now on measurements do not end."""
        (self.double / "hold").touch()

    def go_on(self) -> None:
        (self.double / "hold").unlink(missing_ok=True)

    def calls(self) -> list[tuple[int, str, str]]:
        return calls(self.double)

    def wait_for_call(self, count: int = 1) -> tuple[int, str, str]:
        """The last of the first ``count`` calls of the engine."""
        until(lambda: len(self.calls()) >= count, f"{count} engine calls", timeout=60.0)
        return self.calls()[count - 1]

    def ended_once(self, runs: int, traces: int) -> None:
        """Every run succeeded, once, and nothing is stored twice."""
        assert [tuple(row) for row in self.rows("SELECT state, count(*) FROM runs GROUP BY state")] == [
            ("SUCCEEDED", runs)
        ]
        assert self.rows("SELECT count(*) FROM run_attempts WHERE outcome = 'succeeded'") == [(runs,)]
        assert self.rows("SELECT count(*) FROM traces") == [(traces,)]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


def fleet_environment(settings: Settings, valkey: ValkeyServer, folder: Path) -> dict[str, str]:
    """Environment of every process of a fleet, at the default timings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPINAL_")} | {
        "SPINAL_DATABASE_URL": settings.database_url.get_secret_value(),
        "SPINAL_BROKER_URL": valkey.url,
        "SPINAL_ARTIFACT_URL": settings.artifact_url,
        "SPINAL_SCRATCH_DIR": str(folder / "scratch"),
        "SPINAL_MODEL_ROOTS": str(EXAMPLES / "checkpoints"),
        "SPINAL_ENGINE": "tests.support.engine_double",
        "SPINAL_DOUBLE_DIR": str(folder / "double"),
        "SPINAL_LOG_FORMAT": "console",
        "PYTHONPATH": str(ROOT),
    }
