"""What N members of a series cost against one reference, counted and not timed: ``python -m benchmarks.series_cost``.

The worker's own functions carry out the runs in the order in which a worker takes them, the trace of the reference
first, then each member's trace and comparison, in one process. Counted are traces, models loaded, passes of prompts
through blocks, and logits computed, in units of one model's lens: the nodes 0..D at the rows that a trace reads.

The ideal reads every model once and every swapped block once: N + 1 + N D / (D + 1). Where the read-out moved, the
nodes of the candidate go through the reference's lens, too: that is counted by itself, and belongs to the ideal as N
readings more. Accounts of what carries the change are counted apart.
"""

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file, save_file

import spinal.engine.load
import spinal.engine.measure
import spinal.engine.nll
import spinal.engine.pair
import spinal.engine.parity
import spinal.engine.scored
import spinal.engine.swap
import spinal.engine.transport
import spinal.engine.walk
from service.settings import Settings
from spinal.audit import Ports, Traced, compare_traces, measure_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.transport import Readout
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet
from worker.engine import engine_with_threads, warm_reference

ROOT = Path(__file__).resolve().parents[1]
FIXED = "through the reference's lens"
"""The reading of a candidate's nodes that a moved read-out takes."""
MOST = 1.3
"""Times the ideal lens work, at most."""


class Counters:
    """What the engine did while :meth:`watching`: logits by what they were computed for, and calls by name."""

    def __init__(self) -> None:
        self.logits: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._asked = ["lens"]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count inside this context."""
        logits = Readout.logits

        def counting(readout: Readout, normed: torch.Tensor, start: int, stop: int) -> torch.Tensor:
            made = logits(readout, normed, start, stop)
            self.logits[self._asked[-1]] += made.numel()
            return made

        with ExitStack() as stack:
            stack.enter_context(patch.object(Readout, "logits", counting))
            for module, name, what in (
                (spinal.engine.pair, "account_of_pair", "accounts"),
                (spinal.engine.pair, "alike", "accounts"),
                (spinal.engine.pair, "read_lens", FIXED),
                (spinal.engine.measure, "check_parity", "parity gate"),
                (spinal.engine.measure, "mass_outside", "mass beyond the ids that are read"),
                (spinal.engine.measure, "continuation_nll", "tokens scored"),
                (spinal.engine.measure, "read_behaviour", "tokens scored"),
            ):
                stack.enter_context(patch.object(module, name, self._within(getattr(module, name), what)))
            for module, name, what in (
                (spinal.engine.measure, "open_session", "traces"),
                (spinal.engine.session, "load", "models loaded"),
                (spinal.engine.load, "load", "models loaded"),
            ):
                stack.enter_context(patch.object(module, name, self._called(getattr(module, name), what)))
            for module in (spinal.engine.walk, spinal.engine.swap):
                stack.enter_context(patch.object(module, "run_block", self._passed(module.run_block)))
            yield

    def _within(self, work: Callable[..., Any], what: str) -> Callable[..., Any]:
        def asked(*args: Any, **members: Any) -> Any:
            self._asked.append(what)
            try:
                return work(*args, **members)
            finally:
                self._asked.pop()

        return asked

    def _called(self, work: Callable[..., Any], what: str) -> Callable[..., Any]:
        def called(*args: Any, **members: Any) -> Any:
            self.calls[what] += 1
            return work(*args, **members)

        return called

    def _passed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def passed(anatomy: Any, index: int, hidden: torch.Tensor, call: Any) -> torch.Tensor:
            made: torch.Tensor = work(anatomy, index, hidden, call)
            if self._asked[-1] == "lens":
                self.calls["prompts through a block"] += len(hidden)
            return made

        return passed


@dataclass(frozen=True)
class Cost:
    """Of a series of N members."""

    members: int
    traces: int
    loads: int
    forwards: float
    """All prompts through all blocks, so many times: walks of traces and swaps."""
    lens: float
    """In units of one model's lens: traces, gaps and swaps."""
    fixed: float
    """The candidates through the reference's lens."""
    ideal: float
    """Of ``lens``."""
    ideal_fixed: int
    """Of ``fixed``: 1 for every member whose read-out moved."""
    apart: dict[str, float]
    """The same for what is counted apart."""

    @property
    def ratio(self) -> float:
        """All lens work but the accounts' over the ideal."""
        return (self.lens + self.fixed) / (self.ideal + self.ideal_fixed)

    @property
    def met(self) -> bool:
        """Whether traces and lens work are within the bound."""
        return self.traces <= self.members + 1 and self.ratio <= MOST


def series(root: Path, members: int) -> list[Path]:
    """The bundled sft checkpoint and so many steps from it to dpo-short and beyond."""
    start, end = (ROOT / "examples" / "checkpoints" / name for name in ("sft", "dpo-short"))
    before, after = (load_file(folder / "model.safetensors") for folder in (start, end))
    folders = [start]
    for step in range(1, members + 1):
        folder = root / f"checkpoint-{step}"
        shutil.copytree(start, folder)
        share = 2.0 * step / members
        tensors = {
            name: (base.float() + share * (after[name].float() - base.float())).to(base.dtype)
            for name, base in before.items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


def cost(folders: list[Path], prompts: PromptSet, profile: MeasurementProfile, limit_bytes: int, place: Path) -> Cost:
    """Carry out all runs of the series in this process, keeping a reference within ``limit_bytes``."""
    settings = Settings(warm_reference_bytes=limit_bytes, torch_threads=int(os.environ.get("OMP_NUM_THREADS", "1")))
    engine = engine_with_threads(settings)
    warm_reference.cache_clear()
    counters = Counters()

    def ports() -> Ports:
        # As worker.job.Job makes them for every run.
        return Ports(engine=lambda: engine, warm=warm_reference(settings.warm_reference_bytes))

    def trace(folder: Path) -> Traced:
        checkpoint, path = resolve_reference(os.fspath(folder), roots=None), place / f"{folder.name}.safetensors"
        made = measure_checkpoint(checkpoint, prompts, profile, ports=ports(), capture_path=path)
        return Traced(made, path, checkpoint)

    moved = 0
    with counters.watching():
        reference = trace(folders[0])
        for folder in folders[1:]:
            member = trace(folder)
            moved += member.trace.model.readout_digest != reference.trace.model.readout_digest
            compare_traces(reference, member, profile, ports=ports(), prompts=prompts)
    depth = reference.trace.model.n_layers
    rows = len(load_file(reference.capture)["row_prompt"])
    vocabulary = reference.trace.vocabulary
    if vocabulary is None:
        raise AssertionError("a trace of this release says which ids it read")
    unit = (depth + 1) * rows * vocabulary.ids
    count = len(folders) - 1
    swapped = min(profile.swap_prompts, len(prompts.prompts)) / len(prompts.prompts)
    return Cost(
        members=count,
        traces=counters.calls["traces"],
        loads=counters.calls["models loaded"],
        forwards=counters.calls["prompts through a block"] / (depth * len(prompts.prompts)),
        lens=counters.logits["lens"] / unit,
        fixed=counters.logits[FIXED] / unit,
        ideal=count + 1 + count * swapped * depth / (depth + 1),
        ideal_fixed=moved,
        apart={what: read / unit for what, read in counters.logits.items() if what not in ("lens", FIXED)},
    )


def main() -> int:
    """Print the table; exit 1 where the bound is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--members", type=int, nargs="+", default=[5, 10], metavar="N")
    parser.add_argument("--prompts", type=int, default=64, help="of the built-in ones")
    parser.add_argument("--max-tokens", type=int, default=MeasurementProfile().max_tokens)
    asked = parser.parse_args()
    known = builtin_prompts("hh-harmless-64")
    prompts = PromptSet(known.prompts[: asked.prompts], known.continuations[: asked.prompts])
    profile = MeasurementProfile(max_tokens=asked.max_tokens)
    limit = Settings().warm_reference_bytes
    missed = False
    for members in asked.members:
        with tempfile.TemporaryDirectory(prefix="spinal-series-") as folder:
            root = Path(folder)
            folders = series(root, members)
            # What is not kept costs the same for every member: one N shows it.
            ways = (("kept", limit), ("not kept", 0)) if members == asked.members[0] else (("kept", limit),)
            for name, bound in ways:
                found = cost(folders, prompts, profile, bound, root)
                said = f"{'met' if found.met else 'MISSED'}: at most {members + 1} traces and x {MOST}" if bound else ""
                print(
                    f"N = {members}, reference {name}: {found.traces} traces, {found.loads} models loaded, "
                    f"{found.forwards:.1f} passes of all prompts, lens {found.lens:.2f} (ideal {found.ideal:.2f}), "
                    f"{FIXED} {found.fixed:.2f} ({found.ideal_fixed}): x {found.ratio:.3f}  {said}"
                )
                print("  apart: " + ", ".join(f"{what} {read:.2f}" for what, read in sorted(found.apart.items())))
                missed = missed or (bool(bound) and not found.met)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
