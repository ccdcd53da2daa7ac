"""Does localization find a change where it was put? ``python -m benchmarks.localization [--model DIR] [--cases N]``.

Injects changes into known blocks of a checkpoint, audits each changed copy against the original and counts, for
every profile and for the account of KL (what goes the total's way), how often the place is right: for a single block,
whether the peak is that block; for a band of a third of the depth, whether the centre lies in that third. A change is
seeded noise of a given relative size or, with ``--update DIR``, what fine-tuning did to those blocks (the difference of
DIR to the model); half of all cases carry a tenth of the same change everywhere else. ``--single`` changes single
blocks only. Exit 1 where block swap misses a single block, or the account one beside which all else is bit-identical.
Deterministic for a seed.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spinal.audit import Ports, TemporaryCaptures, compare_traces, temporary_captures, trace_checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.comparison import Comparison
from spinal.documents.localization import Localization
from spinal.engine.anatomy import find_anatomy
from spinal.engine.load import load
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

ROOT = Path(__file__).resolve().parents[1] / "examples" / "checkpoints"
PROFILE = MeasurementProfile(
    name="spinal/2",
    max_tokens=48,
    lens_positions=4,
    swap_prompts=32,
    stitch_prompts=8,
    stitch_tokens=48,
    continuation_prompts=4,
    greedy_prompts=0,
    bootstrap_draws=200,
)
SWAP, ACCOUNT = "block_swap", "account"
NOISE = 0.02
"""Relative size of injected noise, of each tensor's own norm."""
ELSEWHERE = 0.1
"""Size of the change everywhere else, of the change in the chosen blocks, in half of the cases."""

EVERYWHERE = ", everywhere"


@dataclass(frozen=True)
class Case:
    blocks: range
    """Changed blocks, numbered from 1."""
    update: bool
    elsewhere: bool
    seed: int

    @property
    def kind(self) -> str:
        place = "single block" if len(self.blocks) == 1 else "band"
        return f"{place}, {'update' if self.update else 'noise'}{EVERYWHERE if self.elsewhere else ''}"


def make_cases(count: int, depth: int, seed: int, *, with_updates: bool, single: bool) -> list[Case]:
    """Single blocks and thirds in turn, or ``single`` blocks alone; seeded."""
    generator = torch.Generator().manual_seed(seed)
    third = depth // 3
    cases = []
    for index in range(count):
        start = int(torch.randint(0, 3, (), generator=generator)) * third + 1
        block = int(torch.randint(1, depth + 1, (), generator=generator))
        alone = single or index % 2 == 0
        blocks = range(block, block + 1) if alone else range(start, start + third)
        turn = index if single else index // 2
        cases.append(Case(blocks, with_updates and turn % 2 == 1, turn // 2 % 2 == 1, seed * 100_000 + index))
    return cases


def block_of_tensors(model: Path) -> tuple[int, dict[str, int]]:
    """Depth, and the block (from 1) that each tensor of the checkpoint belongs to, found by data flow."""
    checkpoint = resolve_reference(str(model), roots=None)
    loaded = load(checkpoint, PROFILE, "cpu")
    anatomy = find_anatomy(loaded.model, checkpoint.n_layers or 0, checkpoint.source)
    owner = {id(parameter): index for index, block in enumerate(anatomy.blocks, 1) for parameter in block.parameters()}
    named = {name: owner[id(p)] for name, p in loaded.model.named_parameters() if id(p) in owner}
    return len(anatomy.blocks), named


def inject(
    tensors: dict[str, torch.Tensor], update: dict[str, torch.Tensor], named: dict[str, int], case: Case
) -> None:
    """Change the tensors of the chosen blocks, and those of the others a little where the case asks for it."""
    generator = torch.Generator().manual_seed(case.seed)
    for name, block in named.items():
        size = 1.0 if block in case.blocks else ELSEWHERE if case.elsewhere else 0.0
        old = tensors[name].double()
        if case.update:
            change = update[name].double() - old
        else:
            noise = torch.randn(old.shape, generator=generator, dtype=torch.float64)
            change = noise * NOISE * old.norm() / noise.norm()
        if size:
            tensors[name] = (old + size * change).to(tensors[name].dtype)


class Auditor:
    """Audits changed copies against one reference, which is traced once."""

    def __init__(self, reference: Path, prompts: PromptSet, folder: Path) -> None:
        side = resolve_reference(str(reference), roots=None)
        self._prompts = prompts
        ports = Ports(captures=TemporaryCaptures(folder))
        self._reference = trace_checkpoint(side, prompts, PROFILE, ports=ports)

    def audit(self, changed: Path) -> Comparison:
        side = resolve_reference(str(changed), roots=None)
        with temporary_captures() as captures:
            ports = Ports(captures=captures)
            candidate = trace_checkpoint(side, self._prompts, PROFILE, ports=ports)
            return compare_traces(self._reference, candidate, PROFILE, ports=ports, prompts=self._prompts)


def places(result: Comparison) -> dict[str, Localization | None]:
    """Where each profile and the account put the change."""
    return {**result.localization, ACCOUNT: result.accounts["kl"].localization}


def right(place: Localization | None, case: Case, depth: int) -> bool:
    """Whether the change is put where the case put it."""
    if place is None or place.center is None or place.peak is None:
        return False
    if len(case.blocks) == 1:
        return place.peak == case.blocks[0]
    # Centres are given as depth l / D; block l covers (l - 1, l] / D.
    return case.blocks[0] - 1 < place.center * depth <= case.blocks[-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.localization", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "sft")
    parser.add_argument("--update", type=Path, help="a fine-tune of the model [dpo-short for the bundled model]")
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--single", action="store_true", help="change single blocks only")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    update = chosen.update or (ROOT / "dpo-short" if chosen.model == ROOT / "sft" else None)
    depth, named = block_of_tensors(chosen.model)
    weights = load_file(chosen.model / "model.safetensors")
    tuned = load_file(update / "model.safetensors") if update else {}
    known = builtin_prompts("hh-harmless-64")
    prompts = PromptSet(known.prompts[:32], known.continuations[:32])
    hits: Counter[tuple[str, str]] = Counter()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="spinal-localization-") as temporary:
        folder = Path(temporary)
        auditor = Auditor(chosen.model, prompts, folder)
        changed = shutil.copytree(chosen.model, folder / "changed")
        cases = make_cases(chosen.cases, depth, chosen.seed, with_updates=update is not None, single=chosen.single)
        for index, case in enumerate(cases, 1):
            tensors = dict(weights)
            inject(tensors, tuned, named, case)
            save_file(tensors, changed / "model.safetensors", {"format": "pt"})
            found = places(auditor.audit(changed))
            total[case.kind] += 1
            for name, place in found.items():
                hits[case.kind, name] += right(place, case, depth)
            sys.stderr.write(f"\r{index}/{chosen.cases}")
    sys.stderr.write("\n")
    names = list(found)
    return report(names, hits, total)


def report(names: Sequence[str], hits: Counter[tuple[str, str]], total: Counter[str]) -> int:
    """Print how often each is right; 1 where one that must be is not."""
    print(f"{'hits':32} {'cases':>5} " + " ".join(f"{name:>20}" for name in names))
    for kind in sorted(total):
        print(f"{kind:32} {total[kind]:5} " + " ".join(f"{hits[kind, name]:20}" for name in names))
    for place in ("single block", "band"):
        kinds = [kind for kind in total if kind.startswith(place)]
        count = sum(total[kind] for kind in kinds)
        if count:
            rates = [sum(hits[kind, name] for kind in kinds) / count for name in names]
            print(f"{place + ', all':32} {count:5} " + " ".join(f"{rate:20.0%}" for rate in rates))
    singles = [kind for kind in total if kind.startswith("single block")]
    missed = sum(total[kind] - hits[kind, SWAP] for kind in singles)
    missed += sum(total[kind] - hits[kind, ACCOUNT] for kind in singles if not kind.endswith(EVERYWHERE))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
