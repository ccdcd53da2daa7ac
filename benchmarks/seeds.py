"""Do two seeds of one training agree on what carries the change? ``python -m benchmarks.seeds [--work DIR]``.

Trains ``dpo-short`` of the bundled pair once more with another seed (minutes; found again in DIR), draws up the
accounts of margin and KL of both and of the control ``sft-twin`` over the 64 held-out pairs of ``hh-shorter-64``, and
prints Spearman's correlation of the places' parts between seeds and between seed and control, with bootstrap intervals
over prompts, and candidate minus control of the total. Exit 1 where the margin's seeds agree less than .8, or less
than .2 better than seed and control, or where candidate minus control of its total is not surely positive.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from benchmarks.checkpoints.ancestors import from_history
from benchmarks.checkpoints.train import BUNDLED, train_all
from spinal.checkpoints.resolve import resolve_reference
from spinal.engine.api import gather_accounts
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import builtin_prompts

Array = npt.NDArray[np.float64]
SEED, CONTROL, SECOND = "dpo-short", "sft-twin", "dpo-second-seed"
AGREEMENT, BETTER = 0.8, 0.2
DRAWS = 1000
PAIR_TOKENS = 320
"""Two answers of the 64 pairs do not fit into the default."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--work", type=Path, help="where the second seed is kept and found again")
    parser.add_argument("--pairs", type=Path, help="hh-rlhf pairs to train on [those of the package that are not read]")
    parser.add_argument("--prompts", type=int, default=64)
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="spinal-seeds-") as temporary:
        work = chosen.work or Path(temporary) / "bundled"
        work.mkdir(parents=True, exist_ok=True)
        train_all("bundled", work, chosen.pairs, (SECOND,))
        folders = {name: from_history(name, Path(temporary)) for name in (SEED, CONTROL)} | {SECOND: work / SECOND}
        parts = {name: parts_of(folder, chosen.prompts) for name, folder in folders.items()}
    return report(parts)


def parts_of(candidate: Path, prompts: int) -> dict[str, Array]:
    """By read-out, what each place carries of ``sft`` -> ``candidate`` on each prompt (nats): (prompts, places)."""
    sides = [resolve_reference(str(folder), roots=None) for folder in (BUNDLED, candidate)]
    profile = MeasurementProfile(stitch_prompts=prompts, pair_tokens=PAIR_TOKENS)
    found = gather_accounts(*sides, prompts=builtin_prompts("hh-shorter-64"), profile=profile)
    return {a.read_out: 0.5 * (np.diff(a.forward, axis=1) - np.diff(a.backward, axis=1)) for a in found}


def report(parts: dict[str, dict[str, Array]]) -> int:
    """Print what agrees with what; 1 where the margin's seeds do not agree as they should."""
    wrong = False
    for read_out in ("margin", "kl"):
        one, second, control = (parts[name][read_out] for name in (SEED, SECOND, CONTROL))
        draws = np.random.default_rng(0).integers(0, len(one), (DRAWS, len(one)))
        between = _drawn(one, second, draws)
        against = _drawn(one, control, draws)
        other = _drawn(second, control, draws)
        print(f"{read_out}: {len(one)} prompts, {one.shape[1]} places")
        for name, values in (
            ("seed and seed", between),
            (f"{SEED} and {CONTROL}", against),
            (f"{SECOND} and {CONTROL}", other),
        ):
            low, high = np.quantile(values[1:], [0.025, 0.975])
            print(f"  {name:32} Spearman {values[0]:.2f} [{low:.2f}, {high:.2f}]")
        for name, mine in ((SEED, one), (SECOND, second)):
            change = (mine - control).sum(axis=1)
            se = change.std(ddof=1) / np.sqrt(len(change))
            low, high = change.mean() - 1.96 * se, change.mean() + 1.96 * se
            print(f"  {name} minus {CONTROL}, total {change.mean():+.3f} nats [{low:+.3f}, {high:+.3f}]")
            wrong |= read_out == "margin" and low <= 0.0
        if read_out == "margin":
            wrong |= between[0] < AGREEMENT or between[0] - max(against[0], other[0]) < BETTER
    return 1 if wrong else 0


def _drawn(one: Array, other: Array, draws: npt.NDArray[np.int64]) -> Array:
    """Spearman's correlation of mean parts over all prompts, then over each draw of them."""
    every = [np.arange(len(one)), *draws]
    return np.array([spearman(one[rows].mean(axis=0), other[rows].mean(axis=0)) for rows in every])


def spearman(one: Array, other: Array) -> float:
    """Rank correlation of two rows of numbers without ties."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    sys.exit(main())
