"""The same faults with the real engine under them: what is measured after a fault is what is measured in peace."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from service.traces.store import load_trace
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.trace import Trace
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from tests.conftest import EXAMPLES
from tests.support.fleet import PATIENT_LEASE_S, Fleet
from tests.support.waiting import until

pytestmark = pytest.mark.model
PROMPTS = "hh-harmless-64"


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The trace of the candidate, measured in this process."""
    from spinal.engine.api import measure

    checkpoint = resolve_reference("local:dpo-short", roots=(EXAMPLES / "checkpoints",))
    capture = tmp_path_factory.mktemp("peace") / "capture.safetensors"
    return measure(checkpoint, builtin_prompts(PROMPTS), MeasurementProfile(), capture_path=capture)


def children(pid: int) -> list[int]:
    """Processes of the pool below the worker ``pid``."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for children_of_thread in lists for child in children_of_thread.read_text().split()]
    pool = [child for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert pool, "the worker's children were not found"
    return pool


def kill_children(fleet: Fleet) -> None:
    for child in children(fleet.children["worker"].pid):
        os.kill(child, signal.SIGKILL)


def terminate(fleet: Fleet) -> None:
    fleet.children["worker"].send(signal.SIGTERM)
    until(lambda: not fleet.children["worker"].alive(), "the worker to leave", timeout=30.0)
    fleet.start_worker("next")


def walking(fleet: Fleet) -> bool:
    rows = fleet.rows("SELECT progress->>'phase' AS phase, (progress->>'done')::int AS done FROM runs")
    return any(row.phase == "walk" and row.done > 0 for row in rows)


def stored(fleet: Fleet, audit: UUID) -> Trace:
    [(digest,)] = fleet.rows("SELECT candidate_trace FROM audits WHERE id = :id", id=audit)
    with fleet.ledger.read() as session:
        return load_trace(session, digest)


@pytest.mark.parametrize(
    ("fault", "outcomes"),
    [(kill_children, ["lost", "succeeded"]), (terminate, ["released", "succeeded"])],
    ids=["kill -9 in the middle of a layer", "SIGTERM in the middle of a layer"],
)
def test_a_trace_after_a_fault_is_the_trace_in_peace(
    fleet: Fleet, in_peace: Trace, fault: Callable[[Fleet], None], outcomes: list[str]
) -> None:
    fleet.environment |= {"SPINAL_ENGINE": "spinal.engine.api", "OMP_NUM_THREADS": "1"}
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None, prompt_set=PROMPTS)
    until(lambda: walking(fleet), "the engine to be in the middle of its walk", timeout=60.0)
    fault(fleet)
    fleet.wait_for(audit, "SUCCEEDED", timeout=120.0)
    assert [outcome for _, outcome in fleet.attempts()] == outcomes
    fleet.ended_once(runs=1, traces=1)
    found = stored(fleet, audit)
    assert found.digest == in_peace.digest
    # Bit for bit: nothing of the first attempt is left in the second.
    assert found.layers == in_peace.layers


def test_cancelling_in_the_middle_of_a_layer_frees_the_worker(fleet: Fleet) -> None:
    fleet.environment |= {"SPINAL_ENGINE": "spinal.engine.api", "OMP_NUM_THREADS": "1"}
    fleet.environment["SPINAL_LEASE_S"] = str(PATIENT_LEASE_S)
    fleet.start_dispatcher()
    fleet.start_worker()
    audit = fleet.submit(reference=None, prompt_set=PROMPTS)
    until(lambda: walking(fleet), "the engine to be in the middle of its walk", timeout=60.0)
    fleet.cancel(audit)
    until(lambda: fleet.rows("SELECT state FROM runs") == [("CANCELLED",)], "the run to be cancelled", timeout=15.0)
    assert fleet.rows("SELECT count(*) FROM traces") == [(0,)]
    assert list((fleet.folder / "scratch").iterdir()) == []
