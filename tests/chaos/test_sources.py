"""Workers that fetch from a hub, and die, wait, or are called off: nothing is lost, and nothing wrong is measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from service.operations.invariants import violations
from spinal.checkpoints.sources.reach import load_source_settings
from tests.support.fleet import Fleet
from tests.support.hub import Hub
from tests.support.hub_serving import Fault
from tests.support.places import EXAMPLES
from tests.support.waiting import until

MODELS = EXAMPLES / "checkpoints"
WEIGHTS = MODELS / "sft" / "model.safetensors"
PART = 1_000_000
"""Bytes of the weights that come before a fault."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as made:
        for name in ("sft", "dpo-short"):
            made.add(f"acme/{name}", MODELS / name)
        yield made


def variant(number: int) -> dict[str, bytes | Path]:
    """The files of a model like the candidate, with another last weight."""
    files: dict[str, bytes | Path] = {path.name: path for path in (MODELS / "dpo-short").iterdir()}
    raw = (MODELS / "dpo-short" / WEIGHTS.name).read_bytes()
    return files | {WEIGHTS.name: raw[:-1] + bytes([raw[-1] & 0xF0 | number])}


@pytest.fixture
def hub_fleet(fleet: Fleet, hub: Hub) -> Fleet:
    """Whose workers may use the hub, and have no folder of models."""
    said = json.dumps(
        {
            "hf": {
                "endpoint": hub.url,
                "allow": ["acme/*"],
                "private_hosts": ["127.0.0.1"],
                "redirect_hosts": ["127.0.0.1"],
            }
        }
    )
    store = fleet.folder / "model-store"
    fleet.environment |= {
        "SPINAL_MODEL_SOURCES": said,
        "SPINAL_MODEL_STORE": str(store),
        "SPINAL_MODEL_ROOTS": str(fleet.folder),
        "SPINAL_SOURCE_ANSWER_S": "2",
    }
    # The API has a store of its own, as on another host.
    update = {"model_sources": load_source_settings(said), "model_store": fleet.folder / "store-of-the-api"}
    fleet.settings = fleet.settings.model_copy(update=update)
    return fleet


def submit(fleet: Fleet, seed: int = 0, prompt_set: str = "hh-harmless-64", candidate: str = "dpo-short") -> UUID:
    return fleet.submit(seed, candidate=f"hf:acme/{candidate}", reference="hf:acme/sft", prompt_set=prompt_set)


def ended_well(fleet: Fleet, *audits: UUID) -> None:
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=90.0)
    assert {state for (state,) in fleet.rows("SELECT state FROM runs")} == {"SUCCEEDED"}
    with fleet.ledger.read() as session:
        assert not violations(session)


def fetched(hub: Hub) -> int:
    return hub.sent("cdn GET *")


def test_a_worker_killed_while_it_fetches_is_followed_by_one_that_goes_on_from_there(
    hub_fleet: Fleet, hub: Hub
) -> None:
    audit = submit(hub_fleet)
    before = fetched(hub)
    hub.inject(Fault("cdn GET *", stall_after=PART))
    hub_fleet.start_dispatcher()
    worker = hub_fleet.start_worker("first")
    until(lambda: fetched(hub) - before >= PART, "part of the weights")
    worker.kill()
    hub.heal()
    hub_fleet.start_worker("second")
    ended_well(hub_fleet, audit)
    sizes = sum((MODELS / name / WEIGHTS.name).stat().st_size for name in ("sft", "dpo-short"))
    # What the first had of it was hashed again and kept, up to what it had not written yet.
    assert fetched(hub) - before < sizes + 2 * PART
    assert "lost" in [outcome for _, outcome in hub_fleet.attempts()]


def test_workers_that_want_the_same_files_at_once_fetch_them_once(hub_fleet: Fleet, hub: Hub) -> None:
    audits = [submit(hub_fleet, prompt_set=name) for name in ("hh-harmless-64", "hh-harmless-512")]
    before = fetched(hub)
    hub_fleet.start_dispatcher()
    for name in ("first", "second"):
        hub_fleet.start_worker(name, concurrency=2)
    ended_well(hub_fleet, *audits)
    sizes = sum((MODELS / name / WEIGHTS.name).stat().st_size for name in ("sft", "dpo-short"))
    assert sizes <= fetched(hub) - before < 1.1 * sizes


def test_a_hub_that_is_away_for_longer_than_a_worker_waits_fails_nothing_and_costs_no_attempt(
    hub_fleet: Fleet, hub: Hub
) -> None:
    audit = submit(hub_fleet)
    hub.inject(Fault("cdn GET *", stall_after=PART))
    hub_fleet.start_dispatcher()
    hub_fleet.start_worker()
    until(lambda: fetched(hub) >= PART, "part of the weights")
    hub.away()
    handed_back = "handing back what cannot be fetched now"
    until(lambda: hub_fleet.log("worker").count(handed_back) >= 3, "the run to be handed back thrice", timeout=90.0)
    hub.back()
    ended_well(hub_fleet, audit)
    assert max(count for (count,) in hub_fleet.rows("SELECT charged_attempts FROM runs")) == 1


def test_a_run_that_is_called_off_while_the_hub_is_silent_ends_within_15_seconds(hub_fleet: Fleet, hub: Hub) -> None:
    hub_fleet.environment["SPINAL_SOURCE_ANSWER_S"] = "600"
    audit = submit(hub_fleet)
    hub.inject(Fault("cdn GET *", stall_after=PART))
    hub_fleet.start_dispatcher()
    hub_fleet.start_worker()
    until(lambda: fetched(hub) >= PART, "part of the weights")
    hub_fleet.cancel(audit)
    until(
        lambda: not hub_fleet.rows("SELECT 1 FROM runs WHERE state IN ('QUEUED','RUNNING')"), "all to end", timeout=15.0
    )
    # The worker takes other work.
    hub.heal()
    ended = submit(hub_fleet, seed=1)
    hub_fleet.wait_for(ended, "SUCCEEDED", timeout=60.0)


def test_a_store_that_holds_one_pair_serves_one_pair_after_the_other(hub_fleet: Fleet, hub: Hub) -> None:
    bytes_of_a_pair = sum(path.stat().st_size for name in ("sft", "dpo-short") for path in (MODELS / name).iterdir())
    hub_fleet.environment["SPINAL_MODEL_STORE_BYTES"] = str(int(1.2 * bytes_of_a_pair))
    hub_fleet.start_dispatcher()
    hub_fleet.start_worker(concurrency=2)
    for number in range(3):
        hub.add(f"acme/variant-{number}", variant(number))
    ended_well(hub_fleet, *(submit(hub_fleet, candidate=f"variant-{number}") for number in range(3)))
    kept = (hub_fleet.folder / "model-store" / "blobs").rglob("*")
    assert sum(path.stat().st_blocks * 512 for path in kept if path.is_file()) <= 1.2 * bytes_of_a_pair
