"""What models of a hub cost before a verdict, and what becomes of audits while the hub is away.

``python -m benchmarks.sources`` counts what is asked of a hub for the bundled pair: new to the service, fetched, and
known. ``python -m benchmarks.sources --away 300`` submits audits, takes the hub away in the middle of the downloads for
that many seconds, and counts what became of them: exit 1 when one failed, an attempt was charged, an invariant does not
hold, or files were fetched more than once. An engine double stands in for the models; the hub is the double of the
tests, on loopback.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from rich.console import Console
from rich.table import Table

from benchmarks.chaos import build
from service.operations.invariants import violations
from spinal.checkpoints.sources.reach import load_source_settings
from tests.support.fleet import SHORT_TIMINGS, Fleet
from tests.support.hub import Hub
from tests.support.hub_serving import Fault
from tests.support.places import EXAMPLES
from tests.support.waiting import until

MODELS = EXAMPLES / "checkpoints"
PAIR = ("sft", "dpo-short")
WEIGHTS = "model.safetensors"
TOKENIZER = frozenset(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"))
AUDITS = 12
"""Of the same pair, each with another seed: comparisons that nothing can share."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.sources", description=__doc__.split("\n\n")[0])
    parser.add_argument("--away", type=float, help="seconds for which the hub goes away")
    chosen = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 120)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="spinal-sources-")))
        hub = stack.enter_context(Hub())
        for name in PAIR:
            hub.add(f"acme/{name}", MODELS / name)
        fleet = _fleet(stack, folder, hub)
        return _count(fleet, hub, console) if chosen.away is None else _away(fleet, hub, chosen.away, console)


def _fleet(stack: ExitStack, folder: Path, hub: Hub) -> Fleet:
    fleet = build(stack, folder, lease_s=45.0, seed=0).fleet
    here = ["127.0.0.1"]
    said = json.dumps({"hf": {"endpoint": hub.url, "allow": ["acme/*"], "private_hosts": here, "redirect_hosts": here}})
    fleet.environment |= SHORT_TIMINGS | {
        "SPINAL_LEASE_S": "45",
        "SPINAL_MODEL_SOURCES": said,
        "SPINAL_MODEL_STORE": str(folder / "worker-store"),
    }
    (folder / "double" / "pace").unlink()
    update = {"model_sources": load_source_settings(said), "model_store": folder / "api-store"}
    fleet.settings = fleet.settings.model_copy(update=update)
    return fleet


def _submit(fleet: Fleet, seed: int = 0) -> UUID:
    return fleet.submit(seed, candidate="hf:acme/dpo-short", reference="hf:acme/sft")


# what is asked of the hub


def _count(fleet: Fleet, hub: Hub, console: Console) -> int:
    table = Table(
        "what", "requests", "bytes", "of these tokenizers", "bytes of weights files", title="asked of the hub"
    )
    for what, step in _steps(fleet):
        hub.forget()
        step()
        seen = hub.requests("*")
        named = [(each, each.what.rsplit("/", 1)[-1]) for each in seen]
        weights = hub.sent("cdn GET *")
        tokenizers = sum(each.sent for each, name in named if name in TOKENIZER)
        table.add_row(what, *(f"{number:,}" for number in (len(seen), hub.sent(), tokenizers, weights)))
    console.print(table)
    total = sum(path.stat().st_size for name in PAIR for path in (MODELS / name).iterdir())
    console.print(f"the pair has {total:,} bytes, {2 * (MODELS / 'sft' / WEIGHTS).stat().st_size:,} of weights")
    return 0


def _steps(fleet: Fleet) -> list[tuple[str, Callable[[], object]]]:
    first: list[UUID] = []

    def measured() -> None:
        fleet.start_dispatcher()
        fleet.start_worker(concurrency=2)
        fleet.wait_for(first[0], "SUCCEEDED", timeout=120.0)

    return [
        ("a pair that is new, until it is accepted", lambda: first.append(_submit(fleet))),
        ("what the workers fetch for it", measured),
        ("the same pair again: answered at once", lambda: fleet.wait_for(_submit(fleet), "SUCCEEDED", timeout=1.0)),
    ]


# a hub that is away


def _away(fleet: Fleet, hub: Hub, seconds: float, console: Console) -> int:
    audits = [_submit(fleet, seed) for seed in range(AUDITS)]
    before = hub.sent("cdn GET *")
    hub.inject(Fault("cdn GET *", stall_after=1_000_000))
    fleet.start_dispatcher()
    for name in ("one", "two"):
        fleet.start_worker(name, concurrency=2)
    until(lambda: hub.sent("cdn GET *") - before >= 1_000_000, "a download to be on its way", timeout=60.0)
    hub.away()
    threading.Event().wait(seconds)
    failed = fleet.rows("SELECT count(*) FROM runs WHERE state = 'FAILED'")[0][0]
    hub.back()
    back = time.monotonic()
    for audit in audits:
        fleet.wait_for(audit, "SUCCEEDED", timeout=300.0)
    took = time.monotonic() - back
    outcomes = {str(outcome): count for outcome, count in fleet.rows(
        "SELECT outcome, count(*) FROM run_attempts GROUP BY outcome")}  # fmt: skip
    charged = fleet.rows("SELECT max(charged_attempts) FROM runs")[0][0]
    sizes = sum((MODELS / name / WEIGHTS).stat().st_size for name in PAIR)
    fetched = (hub.sent("cdn GET *") - before) / sizes
    with fleet.ledger.read() as session:
        broken = violations(session)
    console.print(
        f"{AUDITS} audits, the hub away for {seconds:g} s in the middle of a download: {failed} runs failed meanwhile, "
        f"all ended {took:.0f} s after it was back; attempts {outcomes}, at most {charged} charged for a run; weights "
        f"were read {fetched:.2f} times; invariants violated: {len(broken)}"
    )
    return 1 if failed or charged > 1 or broken or fetched > 1.5 else 0


if __name__ == "__main__":
    sys.exit(main())
