"""What carries the change, on checkpoints whose history is known, and what it costs to tell.

``python3 dev.py bench accounts`` prints, for each checkpoint, the account of the margin over 64 held-out pairs in which
the shorter answer is preferred, and of KL: total (standard error), and shares of the embeddings, block 1, the last
third of the blocks and the read-out, with bootstrap intervals over prompts. ``--cost`` times ``spinal compare`` of
``sft`` and ``dpo-short`` over 512 prompts without accounts, with that of KL, and with those of KL and margin; the ways
take turns so that a slow minute hits all of them, and what is printed is the median ratio, of processor time: a machine
that does other work meanwhile stretches the clock. The bar: KL at most doubles the time. Exit 1 above it.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from spinal.audit import Ports, audit_pair, temporary_captures
from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.resolve import resolve_reference
from spinal.documents.evidence import AccountEvidence
from spinal.engine.api import gather_accounts
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts
from spinal.prompts.sets import PromptSet

Array = npt.NDArray[np.float64]
PAIRS = ("dpo-short", "sft-twin", "dpo-blocks-1-7", "dpo-blocks-9-15", "dpo-blocks-18-24", "dpo-overoptimised")
DRAWS, SEED = 2000, 0
BAR = 2.0
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cost", action="store_true", help="time a comparison instead")
    parser.add_argument("--rounds", type=int, default=3, help="of the timing")
    parser.add_argument("--only", nargs="*", default=PAIRS, choices=PAIRS, help="checkpoints of the table")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="spinal-accounts-") as folder:
        return cost(Path(folder), chosen.rounds) if chosen.cost else table(Path(folder), chosen.only)


def rebuilt(name: str, folder: Path) -> Checkpoint:
    """A checkpoint of ``examples/history``, written into ``folder``."""
    sys.path.insert(0, str(ROOT / "examples"))
    from history_checkpoints import rebuild

    return resolve_reference(str(rebuild(name, folder)), roots=None)


def table(folder: Path, names: list[str]) -> int:
    reference = rebuilt("sft", folder)
    prompts = builtin_prompts("hh-shorter-256")
    for name in names:
        candidate = rebuilt(name, folder)
        started = time.perf_counter()
        found = gather_accounts(reference, candidate, prompts=prompts, profile=MeasurementProfile())
        took = time.perf_counter() - started
        for account in found:
            sys.stdout.write(f"{name:18} {line(account)}\n")
        sys.stdout.write(f"{'':18} {took:.1f} s\n")
        sys.stdout.flush()
    return 0


def line(account: AccountEvidence) -> str:
    parts = 0.5 * (np.diff(account.forward, axis=1) - np.diff(account.backward, axis=1))
    crossed = 0.5 * np.abs((np.diff(account.forward, axis=1) + np.diff(account.backward, axis=1)).mean(axis=0))
    total = parts.sum(axis=1)
    depth = sum(name.startswith("block ") for name in account.places)
    # T starts at block ceil(0.7 D).
    last = slice(int(np.ceil(0.7 * depth)), depth + 1)
    draws = np.random.default_rng(SEED).multinomial(len(total), np.full(len(total), 1 / len(total)), DRAWS)

    def share(where: slice, of: Array) -> str:
        middle = parts[:, where].sum() / of.sum()
        drawn = (draws @ parts[:, where].sum(axis=1)) / (draws @ of)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return f"{middle:5.2f} [{low:.2f}, {high:.2f}]"

    error = total.std(ddof=1) / np.sqrt(len(total))
    blocks = parts[:, 1 : depth + 1].sum(axis=1)
    return (
        f"{account.read_out:7} n {len(total):3} dropped {account.dropped}  total {total.mean():+.4f} ({error:.4f})  "
        f"E {share(slice(0, 1), total)}  block 1 {share(slice(1, 2), total)}  last third {share(last, total)}  "
        f"R {share(slice(depth + 1, depth + 2), total)}  of the blocks' sum, last third {share(last, blocks)}  "
        f"interaction {crossed.max() / abs(total.mean()):.2f}"
    )


def with_pairs() -> PromptSet:
    """The 512 prompts, with both answers where the set of pairs has them."""
    prompts, pairs = builtin_prompts("hh-harmless-512"), builtin_prompts("hh-shorter-256")
    known = dict(zip(pairs.prompts, zip(pairs.continuations, pairs.rejected, strict=True), strict=True))
    found = [known.get(prompt, (own, None)) for prompt, own in zip(prompts.prompts, prompts.continuations, strict=True)]
    return replace(prompts, continuations=tuple(a for a, _ in found), rejected=tuple(b for _, b in found))


def cost(folder: Path, rounds: int) -> int:
    sides = [rebuilt(name, folder) for name in ("sft", "dpo-short")]
    plain, paired = builtin_prompts("hh-harmless-512"), with_pairs()
    with_accounts = MeasurementProfile()
    without = with_accounts.model_copy(update={"stitch_prompts": 0})

    def compared(prompts: PromptSet, profile: MeasurementProfile) -> Callable[[], None]:
        def run() -> None:
            with temporary_captures() as captures:
                audit_pair(sides[0], sides[1], prompts, profile, ports=Ports(captures=captures))

        return run

    ways = {
        "without accounts": compared(plain, without),
        "KL": compared(plain, with_accounts),
        "KL and margin": compared(paired, with_accounts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, run in ways.items():
            started, clock = time.process_time(), time.perf_counter()
            run()
            times[name].append(time.process_time() - started)
            took = time.perf_counter() - clock
            sys.stdout.write(f"round {turn + 1}  {name:18} {times[name][-1]:7.1f} s (clock {took:.1f} s)\n")
            sys.stdout.flush()
    base = times["without accounts"]
    ratios = {name: statistics.median(a / b for a, b in zip(found, base, strict=True)) for name, found in times.items()}
    for name, ratio in ratios.items():
        sys.stdout.write(f"{name:18} {statistics.median(times[name]):7.1f} s  x {ratio:.2f}\n")
    return 0 if ratios["KL"] <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
